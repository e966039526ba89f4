"""LEARN: schedules, data, training. Imports nothing of ours from above."""

import os

# GNU OpenMP's threads, of which torch has a team, spin at each barrier for their partners. Where
# other programs are at work, these may not be running, and most of the CPU's time went into that.
# It is read once, as torch is loaded; what the user has set is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
