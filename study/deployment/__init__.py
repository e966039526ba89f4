"""Chosen weights at work: prediction, explanation, export."""
