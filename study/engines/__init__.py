"""Where stage runs run."""
