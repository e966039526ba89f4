"""Photos before training: found, frozen, looked over, put right."""
