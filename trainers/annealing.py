"""Learning rates over time, as arithmetic.

SGDR: Stochastic Gradient Descent with Warm Restarts, Loshchilov & Hutter, ICLR 2017.
One-cycle: Super-Convergence, Smith & Topin, 2018, with the cosines and numbers of fast.ai's.
"""

import math
from collections.abc import Sequence

from trainers.schedule import Annealing

WARM_UP, START, END = 0.25, 1 / 25, 1e-5
"""One-cycle: the share of a cycle that rises, and from which part of the rates to which."""


def cycle_of(epoch: int, cycle_lengths: Sequence[int]) -> tuple[int, int, int]:
    """Find the cycle of an epoch (both from 0): its index, its first epoch and its length."""
    first = 0
    for index, length in enumerate(cycle_lengths):
        if epoch < first + length:
            return index, first, length
        first += length
    raise ValueError(f"epoch must be below {first}, the end of the last cycle, got {epoch}")


def lr_multiplier(
    step: int,
    steps_per_epoch: int,
    cycle_lengths: Sequence[int],
    annealing: Annealing = Annealing.COSINE,
    warm_up: float = 0.0,
) -> float:
    """Return what the learning rates are multiplied by at a step of the stage, counted from 0.

    COSINE is 1 at the first step of each cycle and falls by half a cosine towards 0 at its end.
    ONE_CYCLE rises to 1 by half a cosine before it falls. In the first `warm_up` of all steps,
    this is multiplied by a share that rises by the same amount with each step, and ends at 1.
    """
    rising = warm_up * (sum(cycle_lengths) * steps_per_epoch)
    share = min(1.0, (step + 1) / rising) if rising else 1.0
    return share * _annealed(step, steps_per_epoch, cycle_lengths, annealing)


def _annealed(
    step: int, steps_per_epoch: int, cycle_lengths: Sequence[int], annealing: Annealing
) -> float:
    _, first, length = cycle_of(step // steps_per_epoch, cycle_lengths)
    progress = (step - first * steps_per_epoch) / (length * steps_per_epoch)
    if annealing is Annealing.COSINE:
        return _half_cosine(1, 0, progress)
    if progress < WARM_UP:
        return _half_cosine(START, 1, progress / WARM_UP)
    return _half_cosine(1, END, (progress - WARM_UP) / (1 - WARM_UP))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
