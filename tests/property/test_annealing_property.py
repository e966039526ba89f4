"""Learning-rate curves of any shape: each cycle starts at 1 and only falls."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.annealing import cycle_of, lr_multiplier

cycles = st.lists(st.integers(1, 12), min_size=1, max_size=6)
steps_per_epoch = st.integers(1, 20)


@given(cycles)
def test_epochs_are_in_their_cycles(lengths: list[int]) -> None:
    """Counting through the cycles finds each epoch in the cycle that it stands in."""
    expected, first = [], 0
    for index, length in enumerate(lengths):
        expected += [(index, first, length)] * length
        first += length
    assert [cycle_of(epoch, lengths) for epoch in range(first)] == expected
    with pytest.raises(ValueError, match=f"below {first}, .* got {first}"):
        cycle_of(first, lengths)


@given(cycles, steps_per_epoch)
def test_cycles_start_at_one_and_fall(lengths: list[int], steps: int) -> None:
    """The first step of each cycle has 1, each further one less, and none falls to 0."""
    step = 0
    for length in lengths:
        curve = [lr_multiplier(step + k, steps, lengths) for k in range(length * steps)]
        assert curve[0] == 1
        assert all(later < earlier for earlier, later in pairwise(curve))
        assert curve[-1] > 0
        step += length * steps


@given(cycles, st.integers(1, 12), steps_per_epoch)
def test_cycles_depend_on_those_before_by_length_alone(
    lengths: list[int], last: int, steps: int
) -> None:
    """A cycle's curve is the same whatever came before it."""
    before = sum(lengths) * steps
    for step in range(last * steps):
        after = lr_multiplier(before + step, steps, [*lengths, last])
        assert after == lr_multiplier(step, steps, [last])


@given(cycles, st.integers(2, 10))
def test_finer_steps_follow_the_same_curve(lengths: list[int], finer: int) -> None:
    """At the start of an epoch the multiplier does not depend on how many batches it has."""
    for epoch in range(sum(lengths)):
        coarse = lr_multiplier(epoch, 1, lengths)
        assert lr_multiplier(epoch * finer, finer, lengths) == pytest.approx(coarse, abs=1e-12)
