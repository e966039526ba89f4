"""Settings: what there is, where it comes from, what is wrong with it."""
