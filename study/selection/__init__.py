"""The choice of weights among those of all runs, and its evaluation."""
