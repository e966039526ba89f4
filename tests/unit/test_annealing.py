"""Cosine annealing with warm restarts, and one-cycle: by the closed form and by torch."""

import math

import pytest
import torch

from trainers.annealing import cycle_of, lr_multiplier
from trainers.schedule import Annealing, Stage

FIVE_CYCLES = Stage(image_size=64, batch_size=8, n_cycles=5, cycle_len=1, cycle_mult=2)


def curve(stage: Stage, steps: int) -> list[float]:
    """Return the multiplier of each step of a stage."""
    return [lr_multiplier(k, steps, stage.cycle_lengths) for k in range(stage.epochs * steps)]


def test_cycles_double() -> None:
    """Five cycles that double are 1, 2, 4, 8 and 16 epochs long, 31 in all."""
    assert FIVE_CYCLES.cycle_lengths == (1, 2, 4, 8, 16)
    assert FIVE_CYCLES.epochs == 31
    found = [cycle_of(epoch, FIVE_CYCLES.cycle_lengths) for epoch in range(31)]
    assert found[:4] == [(0, 0, 1), (1, 1, 2), (1, 1, 2), (2, 3, 4)]
    assert [found.count(cycle) for cycle in dict.fromkeys(found)] == [1, 2, 4, 8, 16]


def test_an_epoch_after_the_last_cycle_is_refused() -> None:
    """There is no cycle, and so no learning rate, after the end of a stage."""
    with pytest.raises(
        ValueError, match=r"^epoch must be below 31, the end of the last cycle, got 31$"
    ):
        cycle_of(31, FIVE_CYCLES.cycle_lengths)
    with pytest.raises(ValueError, match="got 31"):
        lr_multiplier(310, 10, FIVE_CYCLES.cycle_lengths)


def test_closed_form() -> None:
    """Each cycle is half a cosine from 1 towards 0: equation 5 of the paper, with eta_min 0."""
    steps, expected = 7, []
    for length in (1, 2, 4, 8, 16):
        total = length * steps
        expected += [0.5 * (1 + math.cos(math.pi * k / total)) for k in range(total)]
    assert curve(FIVE_CYCLES, steps) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize(("cycle_len", "cycle_mult"), [(1, 2), (3, 1), (2, 3)])
def test_agrees_with_torch(steps: int, cycle_len: int, cycle_mult: int) -> None:
    """Step by step the learning rate is that of CosineAnnealingWarmRestarts."""
    stage = Stage(
        image_size=64, batch_size=8, n_cycles=4, cycle_len=cycle_len, cycle_mult=cycle_mult
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=cycle_len * steps, T_mult=cycle_mult
    )
    for multiplier in curve(stage, steps):
        assert 0.3 * multiplier == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_one_step_an_epoch_still_falls() -> None:
    """With a single batch an epoch, the multiplier falls from epoch to epoch of a cycle."""
    stage = Stage(image_size=64, batch_size=8, cycle_len=4)
    assert curve(stage, 1) == pytest.approx([1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5])


ONE_CYCLE = Stage(
    image_size=64, batch_size=8, n_cycles=2, cycle_len=2, cycle_mult=2, annealing="one-cycle"
)


@pytest.mark.parametrize("steps", [4, 10, 50])
def test_one_cycle_agrees_with_torch(steps: int) -> None:
    """With fast.ai's numbers each cycle is OneCycleLR's, which counts one step less to its end."""
    first = 0
    for length in ONE_CYCLE.cycle_lengths:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=0.3,
            total_steps=length * steps + 1,
            pct_start=(0.25 * length * steps + 1) / (length * steps + 1),
            div_factor=25,
            final_div_factor=4000,
            cycle_momentum=False,
        )
        for step in range(first, first + length * steps):
            multiplier = lr_multiplier(step, steps, ONE_CYCLE.cycle_lengths, ONE_CYCLE.annealing)
            assert 0.3 * multiplier == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
            optimizer.step()
            scheduler.step()
        first += length * steps


def test_one_cycle_rises_for_a_quarter_and_then_falls() -> None:
    """Each cycle starts at 1/25, has its only peak of 1 after a quarter, and ends near 0."""
    found = [
        lr_multiplier(step, 10, ONE_CYCLE.cycle_lengths, Annealing.ONE_CYCLE) for step in range(60)
    ]
    for first, length in ((0, 20), (20, 40)):
        cycle, peak = found[first : first + length], length // 4
        assert cycle[0] == pytest.approx(1 / 25)
        assert cycle[peak] == 1
        assert cycle[: peak + 1] == sorted(cycle[: peak + 1])
        assert cycle[peak:] == sorted(cycle[peak:], reverse=True)
        assert 1e-5 < cycle[-1] < 0.02


def test_one_cycle_of_a_single_step_still_trains() -> None:
    """Where there is no step to rise in, the rate is low but not 0."""
    assert lr_multiplier(0, 1, (1,), Annealing.ONE_CYCLE) == pytest.approx(1 / 25)
    assert lr_multiplier(1, 1, (4,), Annealing.ONE_CYCLE) == 1


def test_cosine_is_what_is_not_said() -> None:
    """A stage that does not choose is annealed as before, to the last bit."""
    assert ONE_CYCLE.annealing is Annealing.ONE_CYCLE
    assert FIVE_CYCLES.annealing is Annealing.COSINE
    for step in range(60):
        cosine = lr_multiplier(step, 10, (2, 4), Annealing.COSINE)
        assert lr_multiplier(step, 10, (2, 4)) == cosine


@pytest.mark.parametrize("annealing", Annealing)
@pytest.mark.parametrize(("warm_up", "rising"), [(0.1, 6), (0.5, 30), (0.01, 0.6), (0.99, 59.4)])
def test_warm_up_rises_linearly_to_the_annealing(
    annealing: Annealing, warm_up: float, rising: float
) -> None:
    """By an equal part of it with each step, as far as that share of the stage's steps."""
    lengths = (2, 4)
    for step in range(60):
        without = lr_multiplier(step, 10, lengths, annealing)
        found = lr_multiplier(step, 10, lengths, annealing, warm_up)
        assert found == pytest.approx(without * min(1, (step + 1) / rising), rel=1e-9)
        assert (found == without) is (step + 1 >= rising)


@pytest.mark.parametrize("annealing", Annealing)
def test_warm_up_agrees_with_torch(annealing: Annealing) -> None:
    """Over ten steps it is torch's `LinearLR` from a tenth of the learning rate."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=9)
    for step in range(40):
        share = lr_multiplier(step, 10, (4,), annealing, 0.25)
        expected = schedule.get_last_lr()[0] * lr_multiplier(step, 10, (4,), annealing)
        assert share == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        schedule.step()
