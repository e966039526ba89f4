"""Use of the chosen weights: prediction, explanation, export."""
