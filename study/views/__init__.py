"""Output in the terminal. Only this package and `cli` import rich."""
