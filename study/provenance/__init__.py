"""The provenance of weights, and training them again."""
