"""The commands: each parses its flags, calls one use case and prints the result."""
