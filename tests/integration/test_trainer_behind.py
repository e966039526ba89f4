"""A search whose trainer's files are older than its rows when it dies, or is left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.records import State
from study.events import EpochFinished, TrialFinished
from study.history.trials import show_trial
from study.selection.best import best
from tests.crashes import Behind, check_end, crash_in, crashes, dies_at
from tests.lab import LABELS, Bench, Lab, schedule, stage
from trainers.base import LAST
from trainers.data.manifest import Manifest, Split
from trainers.schedule import Schedule
from trainers.synthetic import _epochs_in

MakeLab = Callable[..., Lab]

ROOT = stage(64, epochs=4)
SCRIPT = (schedule(ROOT, stage(96, epochs=3)), schedule(ROOT, stage(128, 50.0)))
"""Two trials that begin alike; the second one diverges in its second stage."""

GOOD = [schedule(stage(64, epochs=2), stage(size, epochs=2)) for size in (64, 72, 80, 88, 96)]
WEAK = schedule(stage(64, epochs=5))
"""As good as the others while it is in step with them; they go on to a second stage."""


@pytest.fixture
def lab_behind(make_lab: MakeLab) -> MakeLab:
    """Return what makes a study whose trainer writes its files two epochs late."""

    def make(*script: Schedule, **settings: Any) -> Lab:
        lab = make_lab(*script, **settings)
        lab.trainer = Behind(LABELS, 3, metric=lab.config.metric)
        return lab

    return make


def calm_outcome(make_lab: MakeLab, *script: Schedule, **settings: Any) -> dict[str, Any]:
    """Return what comes of a script whose files are never behind, if nothing happens."""
    lab = make_lab(*script, **settings)
    lab.search()
    return lab.outcome()


def recorded_and_saved(lab: Lab) -> tuple[int, int]:
    """Count the epochs of the stage in training: those with a row, and those that LAST knows."""
    with lab.reading() as (store, study, vault):
        for run in store.stage_runs(study.id):
            if run.state is State.RUNNING:
                folder = next(vault.root.glob(f"stages/*/{run.key[:16]}"), vault.root)
                return len(store.epochs(run.id)), _epochs_in(folder / LAST)
    return 0, 0


@pytest.mark.long
def test_killed_at_any_event_epochs_beyond_the_files_come_again(
    make_lab: MakeLab, lab_behind: MakeLab, every: bool
) -> None:
    """Rows, weights and Optuna's story end as in a search that nothing has disturbed."""
    expected, lags = calm_outcome(make_lab, *SCRIPT), set()
    # Sampled: in the first and the third epoch of the first stage, where files may be behind.
    for event in range(2 + 4 + 1 + 3 + 2) if every else (1, 3):
        lab = lab_behind(*SCRIPT)
        assert crashes(lab, dies_at(event))
        recorded, saved = recorded_and_saved(lab)
        lags.add(recorded - saved)
        check_end(lab, expected, f"after a crash at event {event}")
    assert lags == ({0, 1, 2} if every else {1, 2})


@pytest.mark.slow
def test_killed_again_and_again_it_still_ends(make_lab: MakeLab, lab_behind: MakeLab) -> None:
    """Each run dies later than the one before it, in epochs that the one before it had recorded."""
    expected = calm_outcome(make_lab, *SCRIPT)
    lab, deaths = lab_behind(*SCRIPT), 0
    while crashes(lab, dies_at(3 + deaths // 2)):
        lab.check_order(over=False)
        deaths += 1
        assert deaths < 20
    assert deaths > 3
    check_end(lab, expected, "after many crashes")


@pytest.mark.parametrize(
    ("when", "owner", "method"),
    [
        pytest.param("before", "store", "record_epoch", marks=pytest.mark.long),
        pytest.param("after", "suggestions", "report", marks=pytest.mark.long),
        ("before", "vault", "seal"),
    ],
)
def test_killed_around_every_epoch_the_end_is_the_same(
    make_lab: MakeLab, lab_behind: MakeLab, every: bool, when: str, owner: str, method: str
) -> None:
    """Between the files, our row and Optuna's report, each of which may know another epoch."""
    script = (schedule(ROOT),)
    last = 2 if method == "seal" else 4  # both of its files are sealed
    expected, call = calm_outcome(make_lab, *script), 1 if every else last

    def prepare(bench: Bench) -> None:
        crash_in(bench, owner, method, call, after=when == "after")

    while crashes(lab := lab_behind(*script), prepare):
        check_end(lab, expected, f"{when} call {call} of {method}")
        call += 1
    assert call == last + 1


def test_left_politely_the_files_are_up_to_date(
    make_lab: MakeLab, lab_behind: MakeLab, every: bool
) -> None:
    """After Ctrl-C every epoch with a row is in the files: none is trained twice."""
    expected = calm_outcome(make_lab, *SCRIPT)
    for last in (1, 2, 3, 6) if every else (3,):
        lab = lab_behind(*SCRIPT)

        def epochs(lab: Lab = lab) -> int:
            return sum(isinstance(news, EpochFinished) for news in lab.told)

        lab.search(stop=lambda last=last, epochs=epochs: epochs() >= last)
        recorded, saved = recorded_and_saved(lab)
        assert recorded == saved == (last if last < 4 else last - 4)
        check_end(lab, expected, f"after a stop at epoch {last}")


def test_weights_in_use_keep_their_predictions_while_their_stage_is_trained_again(
    make_lab: MakeLab, photos: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trained again for its last weights, a finished trial's stage loses none of its rows."""
    monkeypatch.chdir(tmp_path)
    first = stage(64, epochs=4)
    lab = make_lab(schedule(first), schedule(first, stage(96)), manifest=photos)
    lab.search(stop=lambda: any(isinstance(news, TrialFinished) for news in lab.told))
    calm = best(storage=lab.url)
    assert calm.epoch > 2

    def again() -> bool:
        return any(isinstance(news, EpochFinished) and news.number == 1 for news in lab.told)

    lab.search(stop=again)
    chosen = best(storage=lab.url)
    assert chosen.trials == 2
    assert (chosen.epoch, chosen.confusion) == (calm.epoch, calm.confusion)
    assert [len(one.epochs) for one in show_trial(0, storage=lab.url).stages] == [4]
    assert len(photos.of_split(Split.VALID)) == chosen.n_valid
    lab.search()
    lab.check_order()
