"""LEARN: schedules, data, training. Imports nothing of ours from above."""
