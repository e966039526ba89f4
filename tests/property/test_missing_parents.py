"""Whatever weights were deleted or lost, trials that would go on from them come to the same end."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from storage.records import Kind, State
from study.history.cleanup import clean_weights
from tests.engines import Interleaved
from tests.lab import Lab, schedule, stage

KINDS = [kind.value for kind in Kind]
FIRST = [stage(64, epochs=2), stage(72, epochs=1)]
LATER = [[stage(size, epochs=2, start_from=kind) for kind in KINDS] for size in (96, 128)]

SCHEDULES = [
    schedule(*stages)
    for first in FIRST
    for stages in (
        [first],
        *([first, second] for second in LATER[0]),
        *([first, second, third] for second in LATER[0] for third in LATER[1]),
    )
]


def delete_by_hand(lab: Lab, kind: Kind) -> None:
    """Delete all files of a kind behind the search's back."""
    with lab.reading() as (store, study, vault):
        for file in store.checkpoints(study.id):
            if file.kind is kind:
                vault.path(file.path).unlink(missing_ok=True)


def lose(lab: Lab, how: str) -> None:
    """Make room between two searches, on purpose or not."""
    if how == "gc":
        clean_weights("lab", storage=lab.url, keep=1, delete=True)
    elif how == "max-disk":
        clean_weights("lab", storage=lab.url, max_disk="1B", delete=True)
    else:
        delete_by_hand(lab, Kind(how))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, template: Path) -> dict[str, object]:
    """Search all schedules while nothing is deleted; return each one's score."""
    lab = Lab(tmp_path_factory.mktemp("calm"), SCHEDULES, template=template, keep=99)
    lab.search()
    return scores(lab)


def scores(lab: Lab) -> dict[str, object]:
    """Return each schedule's score, after checking that all trials are complete."""
    with lab.reading() as (store, study, _):
        trials = store.trials(study.id)
    assert {(trial.state, trial.failure) for trial in trials} == {(State.COMPLETE, None)}
    return {trial.schedule_digest: trial.score for trial in trials}


SETTINGS = settings(
    deadline=None,
    phases=[Phase.generate],  # to shrink whole searches takes minutes
    suppress_health_check=list(HealthCheck),
)
SEARCHES: dict[str, st.SearchStrategy[Any]] = {
    "order": st.permutations(range(len(SCHEDULES))),
    "parts": st.lists(
        st.tuples(st.integers(1, 7), st.sampled_from(["gc", "max-disk", *KINDS])),
        max_size=3,
    ),
    "slots": st.integers(1, 3),
    "limit": st.sampled_from([None, "1B", "500B"]),
}


@pytest.mark.long
@settings(SETTINGS, max_examples=4)
@given(**SEARCHES)
def test_a_parent_that_is_missing_is_trained_again(
    template: Path, expected: dict[str, object], **searched: Any
) -> None:
    """Retired by the search, by gc, by max_disk or lost: no trial fails, each score is the same."""
    check(template, expected, **searched)


@pytest.mark.slow
@settings(SETTINGS, max_examples=20)
@given(**SEARCHES)
def test_a_parent_that_is_missing_is_trained_again_in_many_searches(
    template: Path, expected: dict[str, object], **searched: Any
) -> None:
    """The same, more often."""
    check(template, expected, **searched)


def check(
    template: Path,
    expected: dict[str, object],
    order: Sequence[int],
    parts: list[tuple[int, str]],
    slots: int,
    limit: str | None,
) -> None:
    """Search in parts, and lose weights in between."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"keep": 1, "strategy": "independent"} | ({"max_disk": limit} if limit else {})
        script = [SCHEDULES[index] for index in order[:7]]
        lab = Lab(Path(folder) / "lab", script, template=template, **given)
        lab.make_engine = partial(Interleaved, slots=slots)
        for trials, how in sorted(parts):
            lab.configure(script, trials=trials)
            lab.search()
            lose(lab, how)
        lab.configure(script)
        lab.search()
        assert scores(lab).items() <= expected.items()
        if not {how for _, how in parts} & set(KINDS):  # a row may point to what was lost
            lab.check_order()
