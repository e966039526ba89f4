"""A search: the policy that chooses what to train, the loop that trains it, and retention."""
