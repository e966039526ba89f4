"""What a person sees in the terminal. Here and in `cli` alone is rich known."""
