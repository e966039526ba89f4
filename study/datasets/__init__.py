"""Photos before training: found, frozen, checked, cleaned."""
