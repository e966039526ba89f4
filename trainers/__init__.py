"""LEARN: schedules, data, training. Imports nothing from study or storage."""

import os

# GNU OpenMP's threads spin at each barrier while they wait for each other. On a busy machine the
# others may not be running, and most of the CPU's time went into spinning. It is read once, as
# torch is loaded; what the user has set is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
