"""What a search is expected to cost: by what makes one stage's epoch dearer than another's."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from study.config.loading import load_config, settings_of
from study.engines.base import EpochEnded, FailureKind, StageEnded, StageFailed
from study.searching.crowding import crowds
from study.searching.plan import Plan, _affordable, _price, _task, plan
from study.searching.work import Work, work_of
from study.views.history import print_plan
from tests.lab import LABELS, schedule, stage
from tests.tiny_training import noise
from trainers.base import StageTask
from trainers.data.manifest import Manifest, Photo, Split
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule, Stage, Train
from trainers.synthetic import SyntheticTrainer

DEARER: list[dict[str, Any]] = [
    {"image_size": 64},
    {"frozen": 0.5},
    {"frozen": 0.5, "views": 8},
    {"min_steps": 14},
    {"tta": True},
]
SAME: list[dict[str, Any]] = [
    {"batch_norm": "frozen"},
    {"lrs": 0.1},
    {"dropout": 0.5},
    {"cycle_len": 3},
    {"min_steps": 13},
]


def work(**fields: Any) -> Work:
    """Return what an epoch of a stage costs by, with 100 photos in 13 batches."""
    made = Stage(**{"image_size": 32, "batch_size": 8, **fields})
    return work_of(schedule(made), 0, 100)


@pytest.mark.parametrize("fields", DEARER)
def test_stages_of_different_cost_have_different_prices(fields: dict[str, Any]) -> None:
    """Size, what is frozen and cached, passes and mirror images are what an epoch costs by."""
    assert work(**fields) != work()


@pytest.mark.parametrize("fields", SAME)
def test_stages_of_one_cost_share_a_price(fields: dict[str, Any]) -> None:
    """What costs nothing is not timed apart."""
    assert work(**fields) == work()


def test_kinds_of_stages_read_as_what_they_are() -> None:
    """In the words of the schedules."""
    linear = Schedule(backbone="net", hidden=(), stages=(Stage(image_size=224, train=Train.PROBE),))
    assert str(work_of(linear, 0, 100)) == "probe 224 px"
    assert str(work(frozen=0.35, views=8, min_steps=30, tta=True)) == (
        "32 px, frozen 35%, cached, mirror images, 3 passes"
    )


def manifest(training: int, validation: int) -> Manifest:
    """Return so many photos that are nowhere."""
    splits = [Split.TRAIN] * training + [Split.VALID] * validation
    photos = tuple(
        Photo(path=f"{number}.jpg", label=0, split=split, sha256=f"{number:064}", size=1)
        for number, split in enumerate(splits)
    )
    return Manifest(root=Path(), classes=("a", "b"), photos=photos)


def epoch(folder: Path, seconds: float, images_per_second: float) -> EpochMetrics:
    """Return an epoch that took so long."""
    task = StageTask(schedule=schedule(stage()), seed=0, folder=folder)
    (made,) = SyntheticTrainer(LABELS, 3).train(task)
    return replace(made, seconds=seconds, images_per_second=images_per_second)


def test_a_price_counts_passes_and_a_probe_none(tmp_path: Path) -> None:
    """Training is paid for each pass and validation once; a probe for each photo once."""
    few, every = manifest(10, 10), manifest(100, 50)
    timed = epoch(tmp_path, seconds=3.0, images_per_second=5.0)  # 2 s of training, 1 s of the rest
    assert _price(timed, Work("net", Train.NETWORK, 32), few, every) == pytest.approx(20 + 5)
    thrice = Work("net", Train.NETWORK, 32, passes=3)
    assert _price(timed, thrice, few, every) == pytest.approx(60 + 5)
    probe = Work("net", Train.PROBE, 32)
    assert _price(timed, probe, few, every) == pytest.approx(3 * 150 / 20)


@pytest.mark.parametrize("train", list(Train))
def test_a_space_that_begins_with_a_probe_is_timed(tmp_path: Path, train: Train) -> None:
    """A probe has no batch size: what is timed has the largest of the stages that have one."""
    asked = load_config(settings_of(data="photos", backbone="net"))
    timed = _task(asked, "random", Work("net", train, 64), tmp_path / "task").stage
    assert (timed.train, timed.image_size) == (train, 64)
    assert timed.batch_size == max(asked.resolved_space.of_stage(1)["batch_size"])


@pytest.mark.parametrize("folds", [0, 3])
def test_a_plan_prices_the_networks_of_all_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    """A stage in folds costs as many networks, and is an upper bound where trials may stop."""
    noise(tmp_path / "photos", 12, 12)
    timed = epoch(tmp_path, seconds=3.0, images_per_second=8.0)
    monkeypatch.setattr("study.searching.plan._time", lambda *_: timed)
    asked = settings_of(
        data=tmp_path / "photos",
        storage=f"sqlite:///{tmp_path / 'mine.db'}",
        backbone="test_resnet",
        weights="random",
        portfolio=False,
        trials=2,
        folds=folds or None,
        strategy="asha",
        devices="cpu",
    )
    found = plan(load_config(asked))
    assert found.at_most == bool(folds)
    single = [line for line in found.stages if "passes" not in line.stage]
    # One network: 12 photos, or of 24 in 3 folds 16; and 12 or 8 of validation.
    assert {line.seconds_per_epoch for line in single} == {3.0 * (folds or 1)}
    console = Console(file=io.StringIO(), width=200)
    print_plan(console, found)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("at most about" in said) == ("beaten after" in said) == bool(folds)


class Crowded:
    """An engine whose epochs take so long, by a clock of their own; the first of each longer."""

    def __init__(self, slots: int, seconds: float, now: list[float], kind: FailureKind | None):
        self.slots, self._seconds, self._now, self._kind = slots, seconds, now, kind
        self._given: dict[str, StageTask] = {}
        self.closed = False

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run."""
        assert task.folder.is_dir()
        self._given[key] = task

    def events(self) -> Iterator[EpochEnded | StageEnded | StageFailed]:
        """Train all at once, each a little later than the one before."""
        given, self._given = self._given, {}
        begun = {key: self._now[0] + 0.1 * number for number, key in enumerate(given)}
        moments = [
            (begun[key] + self._seconds * (number + 3), key)
            for key, task in given.items()
            for number in range(task.stage.epochs)
        ]
        for moment, key in sorted(moments):
            if self._kind is not None:
                yield StageFailed(key, self._kind, "")
                continue
            self._now[0] = moment
            yield EpochEnded(key, None)  # type: ignore[arg-type]
        yield from map(StageEnded, given)

    def close(self) -> None:
        """Note it."""
        self.closed = True


@pytest.mark.parametrize(
    ("seconds", "expected", "line"),
    [
        ({1: 1.0, 2: 1.25, 4: 2.0}, {2: 1.6, 4: 2.0}, "4 workers on cuda:1 train 2.0 times as"),
        ({1: 1.0, 2: 1.25, 4: 4.0}, {2: 1.6, 4: 1.0}, "2 workers on cuda:1 train 1.6 times as"),
        ({1: 1.0, 2: 2.5}, {2: 0.8}, "1 worker on cuda:1 is best: 2 train 0.8 times as fast"),
        ({1: 1.0, 2: 1.25, 4: None}, {2: 1.6}, "--workers-per-device 2"),
        ({1: None}, {}, ""),
    ],
    ids=str,
)
def test_workers_of_one_device_are_timed_beside_each_other(
    tmp_path: Path, seconds: dict[int, float | None], expected: dict[int, float], line: str
) -> None:
    """What does not fit or is slower than fewer ends it, and a line says which number pays."""
    now, made = [0.0], list[Crowded]()

    def engine_of(workers: int) -> Crowded:
        takes = seconds[workers]
        kind = FailureKind.OUT_OF_MEMORY if takes is None else None
        made.append(Crowded(workers, takes or 1.0, now, kind))
        return made[-1]

    (tmp_path / "0").mkdir()
    task = StageTask(schedule=schedule(stage()), seed=0, folder=tmp_path / "0")
    found = tuple(crowds(engine_of, task, lambda: now[0]))  # type: ignore[arg-type]
    assert {crowd.workers: round(crowd.times, 1) for crowd in found} == expected
    assert all(engine.closed for engine in made)
    assert len(made) == len(seconds)
    console = Console(file=io.StringIO(), width=200)
    costs = {"seconds": 1.0, "device_seconds": 1.0, "alone_seconds": 1.0, "budget": None}
    told = Plan("mine", 1, 1, (), **costs, crowds=found, device="cuda:1")  # type: ignore[arg-type]
    print_plan(console, told)
    assert line in console.file.getvalue()  # type: ignore[attr-defined]


COSTS = [1.0, 4.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("settings", "bought"),
    [
        ({"trials": 2}, (4, 1.0, False)),
        ({"trials": 500}, (4, 2.5, False)),
        ({"trials": 2, "budget": "1h"}, (4, 1.0, False)),
        ({"trials": 2, "budget": "6s"}, (3, 1.0, True)),
        ({"trials": 2, "budget": "5.5s"}, (3, 1.0, True)),
        ({"budget": "30s"}, (4, 3.0, True)),
        ({"trials": 500, "budget": "20s"}, (4, 2.0, True)),
        ({"trials": 500, "budget": "30s"}, (4, 2.5, False)),
        ({"budget": "15s", "workers_per_device": 2}, (4, 3.0, True)),
        ({"budget": "1h", "strategy": "grid", "grid": "g.toml"}, (4, 1.0, False)),
        ({"budget": "1s", "strategy": "grid", "grid": "g.toml"}, (1, 1.0, True)),
        ({"trials": 500, "strategy": "grid", "grid": "g.toml"}, (4, 1.0, False)),
    ],
    ids=str,
)
def test_a_budget_buys_stage_runs_up_to_the_one_that_crosses_it(
    settings: dict[str, Any], bought: tuple[int, float, bool]
) -> None:
    """More than was rehearsed is reckoned from that; a grid is never more than its schedules."""
    paid, scale, bound = _affordable(load_config(settings_of(**settings)), COSTS)
    assert (min(paid, len(COSTS)), scale, bound) == bought
