"""Part `sharing`: how much has to be computed for an equal best score."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contestants import markdown, say
from plain_optuna import PlainLoop, in_memory
from surface import SurfaceTrainer
from wiring import Counted, Curve, Labels, searching, spent_until

from study.config.space import PHOTO_SPACE, Space, StageChoices
from study.engines.inline import InlineEngine
from trainers.base import Trainer
from trainers.synthetic import SyntheticTrainer

HOME = "encore forecast"
HEADER = (
    "searched by",
    "best score",
    "compute, Gpixel",
    "stage runs",
    "compute for the same best, over the forecast's (lowest - highest)",
    "forecast cheaper in",
    "best when it had computed as much as the forecast",
)

SMALL_SPACE = Space(
    n_stages=(1, 2, 3),
    image_size=(32, 48, 64),
    batch_size=(32,),
    lrs=(3e-4, 1e-3, 3e-3),
    crop=("random", "center"),
    max_zoom=(1.1,),
    augmentation=("side-on",),
    dropout=(0.1, (0.25, 0.5)),
    stages=(StageChoices(image_size=(32,), crop=("random",), dropout=((0.25, 0.5),)),),
)
"""What a real search of a few photos can afford on a CPU."""


@dataclass(frozen=True)
class Ground:
    """What is searched: a trainer for each repetition, on `n_train` photos."""

    trainer: Callable[[int], Trainer]
    space: Space
    labels: Labels
    n_train: int
    weights: str = "random"
    digest: str = "d" * 64


@dataclass(frozen=True)
class Run:
    """One search; the curve is (pixels trained so far, best score so far) after each epoch."""

    contestant: str
    repetition: int
    best: float
    pixels: int
    stage_runs: int
    curve: Curve


Contestant = Callable[[Ground, int, int], Counted]


def _encore(ground: Ground, trials: int, repetition: int, **settings: Any) -> Counted:
    counted = Counted(ground.trainer(repetition), ground.n_train)
    with (
        TemporaryDirectory(prefix="encore-bench-") as folder,
        searching(
            Path(folder),
            InlineEngine(counted),
            ground.labels,
            digest=ground.digest,
            weights=ground.weights,
            space=ground.space,
            trials=trials,
            seed=repetition,
            **settings,
        ) as coordinator,
    ):
        coordinator.run()
    return counted


def _optuna(
    ground: Ground,
    trials: int,
    repetition: int,
    *,
    sampler: str,
    asha: str | None = None,
    jobs: int = 1,
) -> Counted:
    counted = Counted(ground.trainer(repetition), ground.n_train)
    loop = PlainLoop(
        counted, ground.space, repetition, weights=ground.weights, reports=asha or "epoch"
    )
    study = in_memory(sampler, repetition, asha=asha)
    study.optimize(loop, n_trials=trials, n_jobs=jobs)
    return counted


CONTESTANTS: dict[str, Contestant] = {
    HOME: partial(_encore, strategy="forecast", sampler="tpe"),
    "encore asha": partial(_encore, strategy="asha", sampler="tpe"),
    "encore independent": partial(_encore, strategy="independent", sampler="tpe"),
    "optuna TPE": partial(_optuna, sampler="tpe"),
    "optuna random": partial(_optuna, sampler="random"),
    "optuna TPE, ASHA by epoch": partial(_optuna, sampler="tpe", asha="epoch"),
    "optuna TPE, ASHA by stage": partial(_optuna, sampler="tpe", asha="stage"),
}
WITH_JOBS: dict[str, Contestant] = {
    HOME: CONTESTANTS[HOME],
    "optuna TPE, n_jobs=2": partial(_optuna, sampler="tpe", jobs=2),
}


def ground_of(given: argparse.Namespace) -> Ground:
    """Return what the command line asks to search."""
    if given.trainer == "real":
        return _real(given)
    labels = np.arange(1000) % 2
    makers = {
        "synthetic": lambda _: SyntheticTrainer(labels, 2),
        "surface": lambda repetition: SurfaceTrainer(labels, repetition),
    }
    return Ground(makers[given.trainer], PHOTO_SPACE, labels, n_train=1000)


def _real(given: argparse.Namespace) -> Ground:
    from dataclasses import replace

    from trainers.data.manifest import Split, build_manifest
    from trainers.device import choose_compute
    from trainers.finetuner import Finetuner

    if given.data is None:
        raise SystemExit("--trainer real needs --data, a folder {train,val}/CLASS/*")
    manifest = build_manifest(given.data)
    if given.photos:  # few to train on, but all to validate on: luck must not decide
        train, valid = manifest.of_split(Split.TRAIN), manifest.of_split(Split.VALID)
        step = max(1, len(train) // given.photos)
        manifest = replace(manifest, photos=(*train[::step], *valid))
    trainer = Finetuner(manifest, compute=choose_compute("cpu"))  # one: photos are decoded once
    return Ground(
        lambda _: trainer,
        SMALL_SPACE if given.sizes == "small" else PHOTO_SPACE,
        manifest.labels(Split.VALID),
        len(manifest.of_split(Split.TRAIN)),
        weights="pretrained",
        digest=manifest.digest,
    )


def measure(
    ground: Ground, contestants: dict[str, Contestant], trials: int, repetitions: Iterable[int]
) -> list[Run]:
    """Let everybody search in every repetition."""
    runs = []
    for repetition in repetitions:
        for name, search in contestants.items():
            counted = search(ground, trials, repetition)
            best = counted.curve[-1][1]
            runs.append(
                Run(name, repetition, best, counted.pixels, counted.stage_runs, counted.curve)
            )
            say(f"repetition {repetition + 1}: {name}: {best:.4f}, {counted.pixels / 1e9:.2f} Gpx")
    return runs


def ratios(name: str, runs: Sequence[Run]) -> list[float]:
    """Give, by repetition, what a contestant computed over what the forecast did.

    Each until it first reached the lower of their two final bests.
    """
    homes = {run.repetition: run for run in runs if run.contestant == HOME}
    found = []
    for run in runs:
        if run.contestant == name:
            home = homes[run.repetition]
            target = min(run.best, home.best)
            found.append(spent_until(run.curve, target) / spent_until(home.curve, target))
    return found


def best_within(name: str, runs: Sequence[Run]) -> list[float]:
    """Return, by repetition, the best score within what the forecast computed."""
    budgets = {run.repetition: run.pixels for run in runs if run.contestant == HOME}
    return [
        max((best for spent, best in run.curve if spent <= budgets[run.repetition]), default=0.0)
        for run in runs
        if run.contestant == name
    ]


def table(runs: Sequence[Run]) -> str:
    """Return the medians over the repetitions."""
    rows = []
    for name in dict.fromkeys(run.contestant for run in runs):
        own = [run for run in runs if run.contestant == name]
        found = ratios(name, runs)
        spread = f"{median(found):.2f} ({min(found):.2f} - {max(found):.2f})"
        won = f"{sum(ratio > 1 for ratio in found)} of {len(found)}"
        rows.append(
            [
                name,
                f"{median(run.best for run in own):.4f}",
                f"{median(run.pixels for run in own) / 1e9:.3g}",
                f"{median(run.stage_runs for run in own):.0f}",
                "-" if name == HOME else spread,
                "-" if name == HOME else won,
                f"{median(best_within(name, runs)):.4f}",
            ]
        )
    return markdown(HEADER, rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this part's options."""
    parser.add_argument("--trainer", choices=["synthetic", "surface", "real"], default="synthetic")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS),
                        default=list(CONTESTANTS))  # fmt: skip
    parser.add_argument("--data", type=Path, help="photos, for --trainer real")
    parser.add_argument("--photos", type=int, help="train on about so many, spread over all")
    parser.add_argument("--sizes", choices=["small", "default"], default="small")


def run(given: argparse.Namespace) -> tuple[str, Any]:
    """Measure; return the table and what it was made of."""
    names = dict.fromkeys([HOME, *given.contestants])
    chosen = {name: CONTESTANTS[name] for name in names}
    runs = measure(ground_of(given), chosen, given.trials, range(given.repetitions))
    return table(runs), [asdict(each) for each in runs]
