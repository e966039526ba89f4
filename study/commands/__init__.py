"""The commands: each parses its flags, calls one use case and prints what it gives."""
