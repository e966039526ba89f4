"""DECIDE: what to train next and what to choose. The only package that knows Optuna."""
