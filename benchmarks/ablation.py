"""The recipe with each ingredient taken away or added alone, trained by `Finetuner`.

Variants of one set and seed share a cache, and those that begin with the same stages train them
once. `settings` tells what each stage took: CPU seconds of every epoch, and of its first one beyond
the median of the others, which is where features and activations of frozen blocks are made.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from recipe_task import BACKBONE, Answer, Asked, PhotoList, Stopwatch, command_line

from study.config.portfolio import portfolio
from study.searching.fitting import data_facts
from trainers.base import BEST, LAST, StageTask
from trainers.classifier import load
from trainers.data.cache import Cache
from trainers.data.manifest import build_manifest
from trainers.device import choose_compute
from trainers.finetuner import Finetuner
from trainers.metrics import Metric
from trainers.schedule import Annealing, Augmentation, Balance, BatchNorm, CropType, Schedule

Change = Callable[[Schedule], Schedule]


def last(times: float = 1, **fields: Any) -> Change:
    """Return what changes the last stage of a schedule, and multiplies its steps."""

    def changed(schedule: Schedule) -> Schedule:
        *before, stage = schedule.stages
        new = replace(stage, min_steps=round(times * stage.min_steps), **fields)
        return replace(schedule, stages=(*before, new))

    return changed


def every(**fields: Any) -> Change:
    """Return what changes all stages of a schedule."""
    return lambda schedule: replace(
        schedule, stages=tuple(replace(stage, **fields) for stage in schedule.stages)
    )


def without_probe(hidden: tuple[int, ...]) -> Change:
    """Return what begins with a random head."""
    return lambda schedule: replace(schedule, hidden=hidden, stages=schedule.stages[1:])


VARIANTS: dict[str, Change] = {
    "the recipe": lambda schedule: schedule,
    "final features alone": lambda schedule: replace(schedule, levels=0),
    "the probe alone": lambda schedule: replace(schedule, stages=schedule.stages[:1]),
    "the probe alone, of final features": lambda schedule: replace(
        schedule, levels=0, stages=schedule.stages[:1]
    ),
    "the probe alone, 288 px": lambda schedule: replace(
        schedule, stages=(replace(schedule.stages[0], image_size=288),)
    ),
    "a random linear head": without_probe(()),
    "a random head with a hidden layer of 512": without_probe((512,)),
    "BatchNorm as usual": last(batch_norm=BatchNorm.TRAIN),
    "new views in each pass": last(views=0),
    "no dropout": last(dropout=0.0),
    "label smoothing 0.1": last(label_smoothing=0.1),
    "no augmentation": last(augmentation=Augmentation.NONE, max_zoom=1.0),
    "cosine": last(annealing=Annealing.COSINE),
    "160 px": every(image_size=160),
    "288 px": every(image_size=288),
    "nothing frozen, half as long": last(0.5, frozen=0.0, views=0),
    "a third frozen": last(frozen=0.35),
    "two thirds frozen": last(frozen=0.65),
    "8 views": last(views=8),
    "half as long": last(0.5),
    "twice as long": last(2),
    "rates 2e-4 and 1e-4": last(lrs=(5e-5, 1e-4, 2e-4)),
    "rates 2e-4 and 1e-4, label smoothing 0.1": last(lrs=(5e-5, 1e-4, 2e-4), label_smoothing=0.1),
    "rates 1e-3 and 2e-4": last(lrs=(1e-4, 2e-4, 1e-3)),
    "rates 1e-3 and 5e-4": last(lrs=(2.5e-4, 5e-4, 1e-3)),
    "+ large crops": last(crop=CropType.GOOGLENET),
    "+ warm-up 0.1": last(annealing=Annealing.COSINE, warm_up=0.1),
    "+ TrivialAugment": last(augmentation=Augmentation.TRIVIAL),
    "+ erasing 0.25": last(erasing=0.25),
    "+ mixup 0.2": last(mixup=0.2),
    "+ cutmix 1": last(cutmix=1.0),
    "+ stochastic depth 0.1": last(drop_path=0.1),
    "+ layer decay 0.8": last(layer_decay=0.8),
    "+ weight decay 0.05": last(weight_decay=0.05),
    "+ clipping at 1": last(clip_grad=1.0),
    "+ balanced loss": every(balance=Balance.LOSS),
    "+ balanced sampling": last(balance=Balance.SAMPLING),
    "+ EMA 0.99": last(ema=0.99),
    "+ mirror images in validation": every(tta=True),
}
"""By name, what is changed of the recipe: the portfolio's first schedule for these photos."""


class Ablation:
    """Trains variants on one set under one seed."""

    def __init__(self, asked: Asked, folder: Path, *, refit: bool) -> None:
        self._seed, self._folder = asked.seed, folder
        self._clock = Stopwatch(asked.began)
        self._photos = PhotoList.read(asked.data)
        manifest = build_manifest(asked.data)
        trained_on = manifest.for_refit() if refit else manifest
        self._trainer = Finetuner(
            trained_on,
            metric=None if refit else Metric.ACCURACY,
            compute=choose_compute("cpu"),
            cache=Cache(folder / "cache", trained_on),
        )
        self._recipe = portfolio(data_facts(manifest, ()), BACKBONE, "pretrained")[0]
        self._trained: dict[str, dict[str, Any]] = {}

    def answer(self, name: str) -> Answer:
        """Train a variant, and answer with its best epoch by validation."""
        schedule = VARIANTS[name](self._recipe)
        began = self._clock.seconds
        stages, start = [], None
        for prefix in schedule.prefixes():
            stages.append(self._stage(prefix, start))
            start = self._home(prefix) / LAST
        with self._clock.stopped():
            found = load(self.weights(name)).predict(self._photos.test.paths)
        return Answer(
            contestant=name,
            valid_errors=stages[-1]["valid_errors"],
            test_wrong=self._photos.test.wrong(found.argmax(1)),
            test_photos=len(self._photos.test),
            train_photos=len(self._photos.train),
            seconds=self._clock.seconds - began,
            cpu_seconds=sum(stage["training"] + stage["features"] for stage in stages),
            settings={"stages": stages},
        )

    def weights(self, name: str) -> Path:
        """Return the weights file of a variant that was trained."""
        return self._home(VARIANTS[name](self._recipe)) / BEST

    def _home(self, schedule: Schedule) -> Path:
        return self._folder / schedule.digest[:16]

    def _stage(self, schedule: Schedule, start: Path | None) -> dict[str, Any]:
        """Train the last stage of a schedule, if no variant has yet; tell what it took."""
        if schedule.digest not in self._trained:
            self._trained[schedule.digest] = self._train(schedule, start)
        return self._trained[schedule.digest]

    def _train(self, schedule: Schedule, start: Path | None) -> dict[str, Any]:
        folder = self._home(schedule)
        folder.mkdir()
        with self._clock.stopped():  # decoding is the same for all
            self._trainer.prepare(schedule.stages, lambda _done, _of: None)
        task = StageTask(schedule=schedule, seed=self._seed, folder=folder, start=start)
        cpu, epochs, errors = [self._clock.cpu], [], []
        for epoch in self._trainer.train(task):
            cpu.append(self._clock.cpu)
            epochs.append(epoch)
            errors.append(round((1 - epoch.accuracy) * len(self._photos.valid)))
        spent = [after - before for before, after in pairwise(cpu)]
        extra = max(0.0, spent[0] - median(spent[1:])) if len(spent) > 1 else 0.0
        best = min(zip(errors, (epoch.valid_loss for epoch in epochs), strict=True))
        return {
            "valid_errors": best[0],
            "training": sum(spent) - extra,
            "features": extra,
            "epochs": [round(each, 3) for each in spent],
        }


def main() -> None:
    """Train the variants, and print an answer for each."""
    parser = command_line(__doc__)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--refit", action="store_true", help="train on the validation photos, too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory() as folder:
        ablation = Ablation(Asked.of(given), Path(folder), refit=given.refit)
        for name in given.variants:
            ablation.answer(name).print()


if __name__ == "__main__":
    main()
