"""Additions to Optuna's dashboard: a note, pictures and the weights of each trial."""
