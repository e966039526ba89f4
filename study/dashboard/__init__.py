"""What Optuna's dashboard shows beside its own: a note, pictures and the weights of each trial."""
