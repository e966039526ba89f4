"""The data gate: checks of a data set before anything is trained on it."""
