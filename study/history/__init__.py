"""Past runs: rows and files, what they contain and what can be deleted."""
