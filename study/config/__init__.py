"""Settings: their fields, where they are read from, and how errors in them are reported."""
