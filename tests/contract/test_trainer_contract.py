"""What every trainer promises."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

from trainers.base import BEST, LAST, StageTask, Trainer, TrainingDiverged
from trainers.checkpoint import read_card
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Schedule, Stage
from trainers.synthetic import SyntheticTrainer

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

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
    "frozen": {"cycle_len": 3, "frozen_groups": 1, "crop": "googlenet", "augmentation": "side-on"},
    "restarts": {"n_cycles": 2, "cycle_mult": 2, "crop": "no", "frozen_groups": 2},
}
"""Stages of three epochs; each draws on something else that a resume must put back."""


def stage(**fields: Any) -> Stage:
    """Give a stage of one epoch on 24 pixels."""
    return Stage(**{"image_size": 24, "batch_size": 6, "lrs": 0.01, **fields})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 16 photos to train on and 8 to validate: noise, a little lighter in one class."""
    root, random = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    for index in range(24):
        label = index % 2
        pixels = random.integers(label * 20, 236 + label * 20, (30, 36, 3), dtype=np.uint8)
        path = root / ("train" if index < 16 else "valid") / "ab"[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return build_manifest(root)


@dataclass(frozen=True)
class Bench:
    """Makes trainers as another process would, and tasks in folders of their own."""

    make: Callable[[Metric], Trainer]
    manifest: Manifest
    root: Path

    def task(
        self, folder: str, *stages: Stage, seed: int = 0, start: Path | None = None
    ) -> StageTask:
        """Give a task; the same folder may be that of a task that was broken off."""
        (self.root / folder).mkdir(exist_ok=True)
        schedule = Schedule(backbone="test_resnet", stages=stages, hidden=(8,), weights="random")
        return StageTask(schedule=schedule, seed=seed, folder=self.root / folder, start=start)

    def train(
        self, task: StageTask, epochs: int | None = None, metric: Metric = Metric.ACCURACY
    ) -> list[EpochMetrics]:
        """Train with a new trainer; close the generator after some epochs."""
        generator = self.make(metric).train(task)
        found = list(islice(generator, epochs))
        assert isinstance(generator, Iterator)
        generator.close()  # type: ignore[attr-defined]
        return found


@pytest.fixture(params=["synthetic", "finetuner"])
def bench(request: pytest.FixtureRequest, tiny: Manifest, tmp_path: Path) -> Bench:
    """Give a bench for each kind of trainer."""
    labels = tiny.labels(Split.VALID)
    make: dict[str, Callable[[Metric], Trainer]] = {
        "synthetic": lambda metric: SyntheticTrainer(labels, 2, metric=metric),
        "finetuner": lambda metric: Finetuner(tiny, metric=metric, device="cpu"),
    }
    return Bench(make[request.param], tiny, tmp_path)


def numbers(epoch: EpochMetrics) -> dict[str, Any]:
    """Give all of an epoch that does not depend on the clock."""
    plain = asdict(epoch)
    for name in ("seconds", "images_per_second", "evaluation"):
        del plain[name]
    evaluation = epoch.evaluation
    return plain | {"p": evaluation.probabilities.tolist(), "labels": evaluation.labels.tolist()}


def tensors(path: Path) -> dict[str, Any]:
    """Give the tensors of a file, to be compared to the last bit."""
    with safetensors.safe_open(path, "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def outcome(task: StageTask) -> list[Any]:
    """Give what a task left in its folder, and check that nothing else is there."""
    assert sorted(path.name for path in task.folder.iterdir()) == sorted([LAST, BEST])
    return [tensors(task.folder / LAST), tensors(task.folder / BEST), epoch_of(task)]


def epoch_of(task: StageTask) -> int:
    """Give the epoch that BEST says it is of."""
    with safetensors.safe_open(task.folder / BEST, "np") as file:
        metadata = file.metadata()
    return int(metadata["epochs"]) if "epochs" in metadata else read_card(task.folder / BEST).epoch


class TestTrainerContract:
    """Run over every kind of trainer."""

    def test_epochs_come_once_and_in_order(self, bench: Bench) -> None:
        """Each has its place, its cycle, the learning rates of its first step, and its labels."""
        mine = stage(n_cycles=2, cycle_mult=2)
        found = bench.train(bench.task("a", stage(), mine))
        assert [(e.stage, e.epoch, e.cycle) for e in found] == [(1, 1, 1), (1, 2, 2), (1, 3, 2)]
        for epoch, share in zip(found, (1, 1, 0.5), strict=True):
            assert epoch.lrs == pytest.approx([lr * share for lr in mine.lrs])
            assert epoch.evaluation.labels.tolist() == bench.manifest.labels(Split.VALID).tolist()
            sums = epoch.evaluation.probabilities.sum(axis=1)
            assert sums == pytest.approx(np.ones(len(sums)), abs=1e-5)
            assert math.isfinite(epoch.train_loss + epoch.valid_loss + epoch.images_per_second)

    def test_files_are_there_when_an_epoch_is_yielded(self, bench: Bench) -> None:
        """After each epoch LAST and BEST are whole, new where they should be, and alone."""
        task, seen = bench.task("a", stage(cycle_len=3)), []
        for epoch in bench.make(Metric.ACCURACY).train(task):
            last, best, epoch_of_best = outcome(task)
            assert last not in seen
            assert best
            assert 1 <= epoch_of_best <= epoch.epoch
            seen.append(last)

    def test_a_task_is_a_pure_function(self, bench: Bench) -> None:
        """The same task in another folder gives the same; under another seed it does not."""
        mine = stage(cycle_len=2, dropout=0.3, augmentation="side-on")
        runs = [bench.task(name, mine, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
        found = [[numbers(epoch) for epoch in bench.train(run)] for run in runs]
        assert found[0] == found[1] != found[2]
        assert outcome(runs[0]) == outcome(runs[1])

    @pytest.mark.parametrize("kind", STAGES)
    def test_broken_off_and_begun_anew_is_as_undisturbed(self, bench: Bench, kind: str) -> None:
        """After however many epochs: it replays them, goes on, and ends with the same bits."""
        mine = stage(**STAGES[kind])
        whole = bench.task("whole", mine)
        expected = [numbers(epoch) for epoch in bench.train(whole)]
        assert len(expected) == 3
        for known in (1, 2, 3):
            task = bench.task(f"after{known}", mine)
            bench.train(task, known)
            assert [numbers(epoch) for epoch in bench.train(task)] == expected
            assert outcome(task) == outcome(whole)
        task = bench.task("again and again", mine)
        for known in (0, 1, 1, 2, 3):
            assert [numbers(epoch) for epoch in bench.train(task, known)] == expected[:known]
        assert outcome(task) == outcome(whole)

    @pytest.mark.parametrize("start", [LAST, BEST])
    def test_a_second_stage_resumes_as_well(self, bench: Bench, start: str) -> None:
        """Larger photos and fewer frozen groups, from either file of the parent."""
        first = stage(cycle_len=3, frozen_groups=2, lrs=0.05)
        second = stage(image_size=32, cycle_len=2, dropout=0.3, optimizer="sgd", start_from="best")
        parent = bench.task("parent", first)
        bench.train(parent)
        whole = bench.task("whole", first, second, start=parent.folder / start)
        expected = [numbers(epoch) for epoch in bench.train(whole)]
        task = bench.task("broken", first, second, start=parent.folder / start)
        bench.train(task, 1)
        assert [numbers(epoch) for epoch in bench.train(task)] == expected
        assert outcome(task) == outcome(whole)

    @pytest.mark.parametrize("damage", ["empty", "text", "half", "foreign"])
    def test_a_broken_last_begins_anew(self, bench: Bench, damage: str) -> None:
        """What cannot be gone on from is replaced, and nothing of it is left in the outcome."""
        whole, task = (bench.task(name, stage(cycle_len=2)) for name in "ab")
        expected = [numbers(epoch) for epoch in bench.train(whole)]
        bench.train(task)
        last = task.folder / LAST
        if damage == "foreign":
            foreign = {"network.head.0.bias": torch.full((9,), math.nan)}
            safetensors.torch.save_file(foreign, last)
        else:
            half = last.read_bytes()[: last.stat().st_size // 2]
            last.write_bytes({"empty": b"", "text": b"no state", "half": half}[damage])
        assert [numbers(epoch) for epoch in bench.train(task)] == expected
        assert outcome(task) == outcome(whole)

    @pytest.mark.parametrize("metric", Metric)
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_best_is_of_the_best_epoch(self, bench: Bench, metric: Metric, seed: int) -> None:
        """By the metric, ties by loss: at the end, and at each epoch on the way."""
        task = bench.task("a", stage(cycle_len=5, lrs=0.05, optimizer="sgd"), seed=seed)
        found: list[EpochMetrics] = []
        for epoch in bench.make(metric).train(task):
            found.append(epoch)
            scores = [past.score(metric) for past in found]
            best = max(scores) if metric.higher_is_better else min(scores)
            losses = {past.valid_loss: past.epoch for past in found if past.score(metric) == best}
            assert epoch_of(task) == losses[min(losses)]

    def test_best_lost_between_the_two_writes_is_made_again(self, bench: Bench) -> None:
        """A crash after LAST and before BEST costs nothing, if the last epoch was the best."""
        whole, task = (bench.task(name, stage(cycle_len=3)) for name in "ab")
        generator = bench.make(Metric.ACCURACY).train(whole)
        first = next(generator)  # so far, it is the best
        expected = outcome(whole)
        bench.train(task, 1)
        for damage in (None, b"", b"half a file"):
            (task.folder / BEST).unlink()
            if damage is not None:
                (task.folder / BEST).write_bytes(damage)
            assert [numbers(epoch) for epoch in bench.train(task, 1)] == [numbers(first)]
            assert outcome(task) == expected
        list(generator)
        bench.train(task)
        assert outcome(task) == outcome(whole)

    def test_divergence_is_told(self, bench: Bench) -> None:
        """A loss that is no finite number ends the task, now and when it is tried again."""
        task = bench.task("a", stage(cycle_len=3, lrs=100.0, optimizer="sgd"))
        for _ in range(2):
            with pytest.raises(
                TrainingDiverged, match=r"loss is (nan|inf); lower the learning rates"
            ):
                bench.train(task)
