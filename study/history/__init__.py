"""What was run, and what may go: rows and files, read."""
