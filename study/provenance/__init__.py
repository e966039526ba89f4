"""Where weights come from, and making them again."""
