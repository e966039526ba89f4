"""Stages that are trained once more, since weights that are needed were not kept or are lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.records import Checkpoint, Kind, State
from tests.lab import Lab, schedule, stage

MakeLab = Callable[..., Lab]

ROOT = stage(64, epochs=2)


SCRIPT = (schedule(ROOT), schedule(ROOT, stage(96)), schedule(ROOT, stage(128)))
"""The first one ends with the stage that the others begin with."""


def delete_last(lab: Lab) -> list[Checkpoint]:
    """Delete the weights that a longer trial would go on from, as `gc` does; return the others."""
    with lab.reading() as (store, study, vault):
        for file in store.checkpoints(study.id):
            if file.kind is Kind.LAST:
                store.retire_checkpoint(file, "not needed")
                vault.delete(file.path, file.sha256)
                store.settle_names(study.id, [file.path])
        return store.checkpoints(study.id)


def test_a_longer_trial_goes_on_from_a_shorter_one(make_lab: MakeLab) -> None:
    """What the shorter one has trained is not trained again."""
    lab = make_lab(*SCRIPT)
    lab.search()
    lab.check_order()
    assert len(lab.trainer.trained) == len(set(lab.trainer.trained)) == 3


def test_a_longer_trial_needs_what_was_deleted(make_lab: MakeLab) -> None:
    """The weights to go on from are trained once more, and the shorter trial keeps its own."""
    lab = make_lab(SCRIPT[0])
    lab.search()
    (before,) = delete_last(lab)
    lab.configure(SCRIPT)
    lab.search()
    lab.check_order()
    root, again, *others = lab.trainer.trained
    assert root == again
    assert len({root, *others}) == 3
    with lab.reading() as (store, *_):
        best, last = store.checkpoints_of(before.stage_run_id)
        assert best == before
        assert last.kind is Kind.LAST


def test_weights_are_kept_while_their_stage_is_trained_again(make_lab: MakeLab) -> None:
    """If the search is stopped in the middle of that, the shorter trial's best weights remain."""
    lab = make_lab(SCRIPT[0])
    lab.search()
    before = delete_last(lab)
    lab.configure(SCRIPT)
    lab.search(stop=lambda: len(lab.told) >= 2)
    lab.check_order(over=False)
    with lab.reading() as (store, study, _):
        assert [trial.number for trial in store.running_trials(study.id)] == [1]
        assert store.checkpoints(study.id) == before
    lab.search()
    lab.check_order()


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, marks=pytest.mark.long),
        lambda path: path.write_bytes(b"not weights"),
    ],
)
def test_a_damaged_file_is_noticed_and_trained_again(
    make_lab: MakeLab, kind: Kind, damage: Callable[[Path], object]
) -> None:
    """A later trial that needs it does not take it on trust."""
    lab = make_lab(SCRIPT[0])
    lab.search()
    with lab.reading() as (store, study, vault):
        root = store.stage_runs(study.id)[0]
        lost = next(file for file in store.checkpoints_of(root.id) if file.kind is kind)
        damage(place := vault.path(lost.path))
    lab.configure(SCRIPT[:2])
    lab.search()
    assert lab.trainer.trained.count(root.key[:16]) == 2
    with lab.reading() as (store, study, vault):
        kept = store.checkpoints(study.id)
        assert [file.path for file in kept if not vault.verify(file.path, file.sha256)] == []
        again = next(file for file in store.checkpoints_of(root.id) if file.kind is kind)
        assert (again.epoch, again.score) == (lost.epoch, lost.score)
        assert again.path != lost.path  # what lies there may be a user's own by now
    place.unlink(missing_ok=True)
    lab.check_order()


@pytest.mark.parametrize("begun", [0, pytest.param(10, marks=pytest.mark.long)])
def test_a_grid_whose_schedules_start_from_the_best_epoch_comes_to_its_end(
    make_lab: MakeLab, begun: int
) -> None:
    """Its first stage is kept for the others, or trained once more where none had asked for it."""
    late = [stage(64 + 8 * n, start_from="last" if n <= begun else "best") for n in range(1, 15)]
    lab = make_lab(*(schedule(ROOT, each) for each in late), strategy="independent", keep=1)
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        assert [trial.state for trial in store.trials(study.id)] == [State.COMPLETE] * 14
        root = store.stage_runs(study.id)[0]
    assert lab.trainer.trained.count(root.key[:16]) == (2 if begun else 1)
