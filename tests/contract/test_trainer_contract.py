"""What every trainer promises."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.tiny_training import (
    CPU,
    epoch_of_best,
    noise,
    numbers,
    outcome,
    schedule,
    stage,
)
from trainers.base import BEST, LAST, StageTask, Trainer
from trainers.data.manifest import Manifest, Split
from trainers.errors import TrainingDiverged
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Stage, Train
from trainers.synthetic import SyntheticTrainer

STAGES: dict[str, dict[str, Any]] = {
    "adamw": {"cycle_len": 3},
    "sgd with momentum": {"cycle_len": 3, "optimizer": "sgd", "lrs": 0.05, "weight_decay": 0.01},
    "augmented": {
        "cycle_len": 3,
        "dropout": (0.2, 0.5),
        "augmentation": "top-down",
        "max_zoom": 1.2,
        "label_smoothing": 0.1,
    },
    "frozen": {"cycle_len": 3, "frozen": 0.5, "crop": "googlenet", "augmentation": "side-on"},
    "views at an inner cut": {
        "cycle_len": 3,
        "frozen": 0.5,
        "views": 2,
        "augmentation": "side-on",
        "dropout": 0.3,
        "min_steps": 4,
    },
    "views of a frozen body": {"cycle_len": 3, "frozen": 1.0, "views": 2},
    "restarts": {"n_cycles": 2, "cycle_mult": 2, "crop": "no", "frozen": 1.0},
    "averaged": {"cycle_len": 3, "ema": 0.9, "drop_path": 0.3, "clip_grad": 1.0, "cutmix": 1.0},
    "mixed features": {
        "cycle_len": 3,
        "crop": "no",
        "frozen": 1.0,
        "ema": 0.5,
        "mixup": 0.4,
        "balance": "sampling",
        "min_steps": 3,
    },
    "recipe": {
        "cycle_len": 3,
        "optimizer": "sgd",
        "lrs": 0.05,
        "frozen": 0.5,
        "batch_norm": "frozen",
        "layer_decay": 0.8,
        "warm_up": 0.3,
        "min_steps": 4,
        "augmentation": "trivial",
        "erasing": 0.5,
        "mixup": 0.2,
        "cutmix": 1.0,
        "balance": "loss",
        "label_smoothing": 0.1,
        "dropout": 0.2,
        "drop_path": 0.2,
        "ema": 0.8,
    },
}
"""Stages of three epochs; each draws on something else that a resume must put back."""

TRAINERS: dict[str, Callable[[Manifest, Metric], Trainer]] = {
    "synthetic": lambda photos, metric: SyntheticTrainer(
        photos.labels(Split.VALID), 2, metric=metric
    ),
    "written at every epoch": lambda photos, metric: Finetuner(
        photos, metric=metric, compute=CPU, checkpoint_seconds=0
    ),
    "written at the end": lambda photos, metric: Finetuner(
        photos, metric=metric, compute=CPU, checkpoint_seconds=1e9
    ),
}


OF_CLASSES = [metric for metric in Metric if "class" in metric.kinds]
QUICK = [
    *(("synthetic", kind) for kind in STAGES),
    ("written at every epoch", "recipe"),
]
"""A recipe draws on most of what a resume must put back."""
EACH = [
    pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.long)
    for name in TRAINERS
    for kind in STAGES
]
"""Every kind of stage by each trainer; what is kept does not depend on when it is written."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 10 photos to train on and 6 to validate."""
    return noise(tmp_path_factory.mktemp("tiny"), 10, 6)


@dataclass(frozen=True)
class Bench:
    """Makes trainers as another process would, and tasks in folders of their own."""

    make: Callable[[Manifest, Metric], Trainer]
    photos: Manifest
    root: Path
    undisturbed: dict[Any, tuple[list[Any], list[Any]]]

    def task(
        self, folder: str, *stages: Stage, seed: int = 0, start: Path | None = None
    ) -> StageTask:
        """Return a task; the same folder may be that of a task that was broken off."""
        (self.root / folder).mkdir(exist_ok=True)
        hidden = () if any(each.train is Train.PROBE for each in stages) else (8,)
        mine = schedule(*stages, hidden=hidden)
        return StageTask(schedule=mine, seed=seed, folder=self.root / folder, start=start)

    def train(
        self, task: StageTask, epochs: int | None = None, metric: Metric = Metric.ACCURACY
    ) -> list[EpochMetrics]:
        """Train with a new trainer; close the generator after some epochs."""
        generator = self.make(self.photos, metric).train(task)
        found = list(islice(generator, epochs))
        generator.close()
        return found

    def in_one_go(self, mine: Stage, metric: Metric = Metric.ACCURACY) -> tuple[list[Any], ...]:
        """Return the epochs and the outcome of a stage that nothing disturbs, trained once."""
        key = mine, metric
        if key not in self.undisturbed:
            whole = self.task("in one go", mine)
            found = [numbers(epoch) for epoch in self.train(whole, metric=metric)]
            self.undisturbed[key] = found, outcome(whole.folder)
            shutil.rmtree(whole.folder)
        return self.undisturbed[key]


@pytest.fixture(scope="session")
def undisturbed() -> dict[bool, dict[Any, tuple[list[Any], list[Any]]]]:
    """Keep what came of undisturbed trainings: it does not depend on when a trainer writes."""
    return {True: {}, False: {}}


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.long if name == "written at the end" else ())
        for name in TRAINERS
    ]
)
def bench(
    request: pytest.FixtureRequest,
    tiny: Manifest,
    tmp_path: Path,
    undisturbed: dict[bool, dict[Any, tuple[list[Any], list[Any]]]],
) -> Bench:
    """Return a bench for each kind of trainer."""
    known = undisturbed[request.param == "synthetic"]
    return Bench(TRAINERS[request.param], tiny, tmp_path, known)


def best_of(epochs: list[EpochMetrics], metric: Metric) -> int:
    """Find the epoch with the best score, the lowest loss among equals, by hand."""
    scores = [epoch.score(metric) for epoch in epochs]
    best = max(scores) if metric.higher_is_better else min(scores)
    losses = {epoch.valid_loss: epoch.epoch for epoch in epochs if epoch.score(metric) == best}
    return losses[min(losses)]


class TestTrainerContract:
    """Run over every kind of trainer."""

    def test_epochs_come_once_and_in_order(self, bench: Bench) -> None:
        """Each has its place, its cycle, the learning rates of its first step, and its labels."""
        mine = stage(n_cycles=2, cycle_mult=2)
        found = bench.train(bench.task("a", stage(), mine))
        assert [(e.stage, e.epoch, e.cycle) for e in found] == [(1, 1, 1), (1, 2, 2), (1, 3, 2)]
        for epoch, share in zip(found, (1, 1, 0.5), strict=True):
            assert epoch.lrs == pytest.approx([lr * share for lr in mine.lrs])
            assert epoch.evaluation.labels.tolist() == bench.photos.labels(Split.VALID).tolist()
            sums = epoch.evaluation.probabilities.sum(axis=1)
            assert sums == pytest.approx(np.ones(len(sums)), abs=1e-5)
            assert math.isfinite(epoch.train_loss + epoch.valid_loss + epoch.images_per_second)

    @pytest.mark.parametrize("epochs", [1, 3])
    def test_files_are_there_when_it_is_left(self, bench: Bench, epochs: int) -> None:
        """Closed after any epoch, it leaves LAST and BEST of the epochs so far, and no more."""
        task = bench.task("a", stage(cycle_len=3))
        found = bench.train(task, epochs)
        assert outcome(task.folder)
        assert epoch_of_best(task.folder) == best_of(found, Metric.ACCURACY)
        assert [numbers(epoch) for epoch in bench.train(task, epochs)] == [*map(numbers, found)]

    def test_files_are_there_when_the_last_epoch_is_yielded(self, bench: Bench) -> None:
        """After the last epoch the files may be taken, before the generator is closed."""
        task = bench.task("a", mine := stage(cycle_len=3))
        _, expected = bench.in_one_go(mine)
        generator = bench.make(bench.photos, Metric.ACCURACY).train(task)
        assert len(list(islice(generator, 3))) == 3
        assert outcome(task.folder) == expected
        generator.close()
        assert outcome(task.folder) == expected

    def test_nothing_is_trained_before_it_is_asked_for(self, bench: Bench) -> None:
        """A generator that is closed at once has written nothing."""
        task = bench.task("a", stage(cycle_len=3))
        bench.train(task, 0)
        assert list(task.folder.iterdir()) == []

    def test_a_task_is_a_pure_function(self, bench: Bench) -> None:
        """The same task in another folder gives the same; under another seed it does not."""
        mine = stage(cycle_len=2, dropout=0.3, augmentation="side-on")
        runs = [bench.task(name, mine, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
        found = [[numbers(epoch) for epoch in bench.train(run)] for run in runs]
        assert found[0] == found[1] != found[2]
        assert outcome(runs[0].folder) == outcome(runs[1].folder)

    @pytest.mark.parametrize(("bench", "kind"), EACH, indirect=["bench"])
    def test_broken_off_and_begun_anew_is_as_undisturbed(self, bench: Bench, kind: str) -> None:
        """After however many epochs: it replays them, goes on, and ends with the same bits."""
        mine = stage(**STAGES[kind])
        epochs, expected = bench.in_one_go(mine)
        assert len(epochs) == 3
        for known in (1, 2):
            task = bench.task(f"after{known}", mine)
            bench.train(task, known)
            assert [numbers(epoch) for epoch in bench.train(task)] == epochs
            assert outcome(task.folder) == expected
        task = bench.task("again and again", mine)
        for known in (1, 2, 3, 2):  # at last, it is left while it replays
            assert [numbers(epoch) for epoch in bench.train(task, known)] == epochs[:known]
        assert outcome(task.folder) == expected

    @pytest.mark.parametrize("start", [LAST, pytest.param(BEST, marks=pytest.mark.long)])
    def test_a_second_stage_resumes_as_well(self, bench: Bench, start: str) -> None:
        """Larger photos and fewer frozen groups, from either file of the parent."""
        first = stage(cycle_len=3, frozen=1.0, lrs=0.05)
        second = stage(image_size=32, cycle_len=2, dropout=0.3, optimizer="sgd", start_from="best")
        parent = bench.task("parent", first)
        bench.train(parent)
        whole = bench.task("whole", first, second, start=parent.folder / start)
        expected = [numbers(epoch) for epoch in bench.train(whole)]
        task = bench.task("broken", first, second, start=parent.folder / start)
        bench.train(task, 1)
        assert [numbers(epoch) for epoch in bench.train(task)] == expected
        assert outcome(task.folder) == outcome(whole.folder)

    @pytest.mark.parametrize("balance", ["none", pytest.param("loss", marks=pytest.mark.long)])
    def test_a_probe_is_a_stage_of_one_epoch(self, bench: Bench, balance: str) -> None:
        """Its files are there when it is yielded; it is replayed, or made again to the last bit."""
        probe = stage(train="probe", balance=balance)
        task = bench.task("a", probe)
        (found,) = bench.train(task, 1)
        assert (found.stage, found.epoch, found.cycle) == (0, 1, 1)
        assert found.evaluation.labels.tolist() == bench.photos.labels(Split.VALID).tolist()
        expected = outcome(task.folder)
        for lost in ([], [LAST], [LAST, BEST], [BEST]):
            for name in lost:
                (task.folder / name).unlink()
            assert [numbers(epoch) for epoch in bench.train(task)] == [numbers(found)]
            assert outcome(task.folder) == expected

    @pytest.mark.parametrize(
        "batch_norm", ["train", pytest.param("frozen", marks=pytest.mark.long)]
    )
    def test_what_trains_on_from_a_probe_resumes(self, bench: Bench, batch_norm: str) -> None:
        """A stage from a probe's head, and another probe after it, end with the same bits."""
        probe = stage(train="probe")
        tuned = stage(batch_norm=batch_norm, cycle_len=2, dropout=0.3, image_size=32)
        parent = bench.task("parent", probe)
        bench.train(parent)
        start = parent.folder / LAST
        whole = bench.task("whole", probe, tuned, start=start)
        expected = [numbers(epoch) for epoch in bench.train(whole)]
        broken = bench.task("broken", probe, tuned, start=start)
        bench.train(broken, 1)
        assert [numbers(epoch) for epoch in bench.train(broken)] == expected
        assert outcome(broken.folder) == outcome(whole.folder)
        ends = [
            bench.task(
                f"probe of {each.folder.name}", probe, tuned, probe, start=each.folder / LAST
            )
            for each in (whole, broken)
        ]
        first, second = ([numbers(epoch) for epoch in bench.train(end)] for end in ends)
        assert first == second
        assert outcome(ends[0].folder) == outcome(ends[1].folder)

    @pytest.mark.parametrize(
        "damage", [pytest.param("text", marks=pytest.mark.long), "half", "foreign"]
    )
    def test_a_broken_last_begins_anew(self, bench: Bench, damage: str) -> None:
        """What cannot be gone on from is replaced, and nothing of it is left in the outcome."""
        task = bench.task("a", mine := stage(cycle_len=2))
        epochs, expected = bench.in_one_go(mine)
        bench.train(task)
        last = task.folder / LAST
        if damage == "foreign":
            foreign = {"network.head.0.bias": torch.full((9,), math.nan)}
            safetensors.torch.save_file(foreign, last)
        else:
            half = last.read_bytes()[: last.stat().st_size // 2]
            last.write_bytes({"text": b"no state", "half": half}[damage])
        assert [numbers(epoch) for epoch in bench.train(task)] == epochs
        assert outcome(task.folder) == expected

    @pytest.mark.parametrize(
        ("metric", "lr"),
        [
            pytest.param(metric, lr, marks=() if lr in (0.05, 0.5) else pytest.mark.long)
            for metric, lr in zip(OF_CLASSES, (0.05, 0.1, 0.2, 0.5, 0.1), strict=True)
        ],
    )
    def test_best_is_of_the_best_epoch(self, bench: Bench, metric: Metric, lr: float) -> None:
        """By the metric, ties by loss: at the end, and wherever it is left on the way."""
        task = bench.task("a", mine := stage(cycle_len=4, lrs=lr, optimizer="sgd"))
        _, expected = bench.in_one_go(mine, metric)
        for epochs in (1, 3, 4):
            found = bench.train(task, epochs, metric)
            assert epoch_of_best(task.folder) == best_of(found, metric)
        assert outcome(task.folder) == expected

    @pytest.mark.parametrize("left", [2, 3])
    def test_best_is_made_again(self, bench: Bench, left: int) -> None:
        """Should BEST be broken, in the stage or after it: the end is the same."""
        task = bench.task("a", mine := stage(cycle_len=3))
        epochs, expected = bench.in_one_go(mine)
        bench.train(task, left)
        (task.folder / BEST).write_bytes(b"half a file")
        assert [numbers(epoch) for epoch in bench.train(task)] == epochs
        assert outcome(task.folder) == expected

    def test_divergence_is_told(self, bench: Bench) -> None:
        """A loss that is no finite number ends the task, now and when it is tried again."""
        task = bench.task("a", stage(cycle_len=3, lrs=100.0, optimizer="sgd"))
        for _ in range(2):
            with pytest.raises(
                TrainingDiverged, match=r"loss is (nan|inf); lower the learning rates"
            ):
                bench.train(task)
