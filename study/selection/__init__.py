"""The choice: which weights of all that any run left, and what is known of them."""
