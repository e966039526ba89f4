"""A second study on the same photos, in the same database, trains only what no other study has."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.records import StageRun, State, Trial
from storage.store import Store, open_store
from study.events import EpochFinished, Notice
from study.searching.search import search
from study.studies import find_study
from tests.tiny_training import noise, schedule, stage
from trainers.data.manifest import Split, build_manifest
from trainers.schedule import Schedule, Stage

ONE = schedule(stage(), stage(lrs=0.02), hidden=())
OTHER = schedule(stage(), stage(lrs=0.03), hidden=())


class Heard(list[Any]):
    """What a search tells."""

    def epochs(self) -> int:
        """Return how many epochs were trained."""
        return sum(isinstance(told, EpochFinished) for told in self)

    def taken(self) -> list[str]:
        """Return what was said of stages of other studies."""
        texts = [told.text for told in self if isinstance(told, Notice)]
        return [text for text in texts if "is taken from study" in text]


def run(folder: Path, study: str, *schedules: Schedule, **settings: Any) -> Heard:
    """Train schedules of a file, as `--strategy grid` does, on photos of noise."""
    grid, heard = folder / f"{study}.toml", Heard()
    stages = "[[schedules]]\nhidden = []\n{}\n".format
    grid.write_text("".join(stages("".join(map(_toml, each.stages))) for each in schedules))
    search(
        data=folder / "photos",
        storage=url(folder),
        study=study,
        weights="random",
        backbone="test_resnet",
        devices="cpu",
        strategy="grid",
        grid=str(grid),
        listener=heard.append,
        **settings,
    )
    return heard


def _toml(stage: Stage) -> str:
    lrs = list(stage.lrs)
    sizes = f"image_size = {stage.image_size}\nbatch_size = {stage.batch_size}\n"
    return f"[[schedules.stages]]\n{sizes}lrs = {lrs}\n"


def url(folder: Path) -> str:
    """Return the URL of the database."""
    return f"sqlite:///{folder / 'encore.db'}"


def runs_of(store: Store, name: str) -> dict[str, StageRun]:
    """Return the stage runs of a study by key."""
    return {run.key: run for run in store.stage_runs(find_study(store, name).id)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with photos and a study `first`, which has trained one schedule."""
    noise(tmp_path / "photos")
    assert run(tmp_path, "first", ONE).epochs() == 2
    return tmp_path


def test_what_another_study_has_trained_is_taken_with_all_that_is_known_of_it(
    folder: Path,
) -> None:
    """Two of three stage runs cost nothing; their epochs, predictions and files are copies."""
    heard = run(folder, "second", ONE, OTHER)
    assert heard.epochs() == 1
    assert [text.partition(": ")[2] for text in heard.taken()] == [
        f"stage {number} is taken from study first, which has trained it" for number in (1, 2)
    ]
    labels = build_manifest(folder / "photos").labels(Split.VALID)
    shutil.rmtree(folder / "first")  # each study goes on without the other
    with open_store(url(folder)) as store:
        first, second = runs_of(store, "first"), runs_of(store, "second")
        assert (len(first), len(second)) == (2, 3)
        for key, theirs in first.items():
            mine = second[key]
            assert (mine.state, mine.taken_from) == (State.COMPLETE, "first")
            assert mine.seconds == theirs.seconds
            assert [vars(e) | {"stage_run_id": 0} for e in store.epochs(mine.id)] == [
                vars(e) | {"stage_run_id": 0} for e in store.epochs(theirs.id)
            ]
            told = [store.predictions(each.id, 1, labels) for each in (mine, theirs)]
            assert np.array_equal(told[0].probabilities, told[1].probabilities)
            hashes = [
                {(file.kind, file.sha256) for file in store.checkpoints_of(each.id)}
                for each in (mine, theirs)
            ]
            assert hashes[0] == hashes[1]
            assert mine.position or hashes[0]  # what a second stage starts from is kept
            for file in store.checkpoints_of(mine.id):
                assert (folder / "second" / file.path).is_file()
        study = find_study(store, "second")
        own = [r for r in second.values() if r.taken_from is None]
        assert store.seconds_of_epochs(study.id) == pytest.approx(sum(r.seconds for r in own))
        trials: list[Trial] = store.trials(study.id)
        assert [trial.state for trial in trials] == [State.COMPLETE] * 2
    assert run(folder, "second", ONE, OTHER).epochs() == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"metric": "f1"},
        pytest.param({"deterministic": True}, marks=pytest.mark.long),
        pytest.param({"precision": "bf16"}, marks=pytest.mark.long),
    ],
)
def test_what_was_trained_or_judged_otherwise_is_not_taken(
    folder: Path, settings: dict[str, Any]
) -> None:
    """Best weights by another metric, or numbers of another precision, are other weights."""
    heard = run(folder, "second", ONE, **settings)
    assert (heard.epochs(), heard.taken()) == (2, [])


@pytest.mark.long
def test_other_photos_are_trained_on_anew(folder: Path) -> None:
    """One photo less is other data."""
    next((folder / "photos" / "train" / "a").iterdir()).unlink()
    assert run(folder, "second", ONE).epochs() == 2


@pytest.mark.long
def test_weights_that_are_gone_or_changed_are_trained_again(folder: Path) -> None:
    """What is taken is whole: a damaged file's stage is trained, the other one taken."""
    with open_store(url(folder)) as store:
        [beginning] = [r for r in runs_of(store, "first").values() if r.position == 0]
        for file in store.checkpoints_of(beginning.id):
            path = folder / "first" / file.path
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    heard = run(folder, "second", ONE)
    assert (heard.epochs(), len(heard.taken())) == (1, 1)
