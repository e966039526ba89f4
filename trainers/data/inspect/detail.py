"""Whether two photos agree in their detail, once one is laid over a window of the other."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter1d

STORED = 32
"""Pixels a side of the grey squares that photos are compared by."""

LEAST_DETAIL = 0.75
"""From this correlation on, photos show one shot. Of 720 photos of flowers, 99.9 % of the copies
have it, and none of the 619 pairs of others whose hashes come nearest."""

_SIDE = 24  # pixels a side of what is compared, so that windows need not fit to the pixel
_BLUR = 7  # detail is what is left without the means of so many pixels a side
_FAINT = 1.5  # levels of 255: detail that deviates less is noise, and counts accordingly less
_SHARES = (0.95, 0.9)  # of each side that a window leaves
_PLACES = (0.0, 0.5, 1.0)  # from one end to the other
_AT_ONCE = 256

Greys = NDArray[np.uint8]


def _matrices() -> NDArray[np.float32]:
    """Give what takes the pixels of each window along one side, (windows a side, _SIDE, STORED)."""
    unit = Image.fromarray(np.eye(STORED, dtype=np.float32))
    spans = [(0.0, 1.0), *((share, place) for share in _SHARES for place in _PLACES)]
    rows = []
    for share, place in ((1.0, 0.0), *spans[1:]):
        start = (1 - share) * place * STORED
        box = (0, start, STORED, start + share * STORED)
        rows.append(np.asarray(unit.resize((STORED, _SIDE), Image.Resampling.BILINEAR, box)))
    return np.stack(rows)
