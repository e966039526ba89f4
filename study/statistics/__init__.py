"""Pure functions of scores and predictions: estimates, intervals and tests."""
