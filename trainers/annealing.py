"""Learning rates over time, as arithmetic: cosine annealing with warm restarts.

SGDR: Stochastic Gradient Descent with Warm Restarts, Loshchilov & Hutter, ICLR 2017.
"""

import math
from collections.abc import Sequence


def cycle_of(epoch: int, cycle_lengths: Sequence[int]) -> tuple[int, int, int]:
    """Find the cycle of an epoch (both from 0): its index, its first epoch and its length."""
    first = 0
    for index, length in enumerate(cycle_lengths):
        if epoch < first + length:
            return index, first, length
        first += length
    raise ValueError(f"epoch must be below {first}, the end of the last cycle, got {epoch}")


def lr_multiplier(step: int, steps_per_epoch: int, cycle_lengths: Sequence[int]) -> float:
    """Give what the learning rates are multiplied by at a step of the stage, counted from 0.

    1 at the first step of each cycle, falling by half a cosine towards 0 at its end.
    """
    _, first, length = cycle_of(step // steps_per_epoch, cycle_lengths)
    progress = (step - first * steps_per_epoch) / (length * steps_per_epoch)
    return (1 + math.cos(math.pi * progress)) / 2
