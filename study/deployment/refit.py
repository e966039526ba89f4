"""Use case `best --refit`: the chosen schedule trained once more, on the validation photos as well.

These photos chose it and can now be used for training. The estimate for the choice, which was
trained without them, is a conservative estimate for the refit. With several seeds the weights are
averaged: see `trainers.soup`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from storage.paths import CACHE, runs_folder
from storage.store import open_store
from study.datasets.freeze import freeze_data
from study.engines.base import Engine
from study.errors import ConfigError
from study.events import Listener, Notice, Progress, Working, noticing, telling
from study.formatting import path_text
from study.provenance.lookup import Origin, find
from study.provenance.retrain import (
    config_as_made,
    engine_as_made,
    setup_as_made,
    train_again,
    workplace,
)
from study.selection.result import Selection
from trainers.data.manifest import Manifest, Split
from trainers.errors import EncoreError
from trainers.files import replacing, sha256_of
from trainers.schedule import Stage, Train


@dataclass(frozen=True)
class Refitted:
    """Weights of the chosen schedule, trained on `photos`: train and validation together.

    They are the mean over `seeds`. They have no validation score.
    """

    file: str
    sha256: str
    seeds: tuple[int, ...]
    photos: int
    seconds: float


def refit(
    chosen: Selection,
    *,
    storage: str,
    folder: Path = Path("chosen"),
    seeds: int = 1,
    device: str = "auto",
    listener: Listener = lambda _: None,
) -> Refitted:
    """Train the chosen schedule as it was trained, on more photos; write the weights to `folder`.

    `seeds` is their number: the chosen one and those that follow it; of a probe, which is the same
    network under each, the chosen one alone. Raises `ConfigError` for a
    custom trainer, which may choose epochs by photos that are now in train, `DatasetError` where
    the data have changed, `EncoreError` if the training fails.
    """
    began, runs = time.perf_counter(), runs_folder(storage)
    with open_store(storage, create=False) as store:
        found = find(str(chosen.trial), chosen.study, store, storage)
        if found.origin is None:
            raise LookupError(f"trial {chosen.trial} must have weights to be trained again")
        config = config_as_made(store, found.origin.study, storage, found.made_by, device)
        if config.trainer is not None:
            raise ConfigError("--refit is for Encore's own trainer; drop it for --trainer's")
        data = freeze_data(config, store, listener).manifest.for_refit()
    training = setup_as_made(config).training(config, data, runs / CACHE, found.made_by)
    training = replace(training, recipe=replace(training.recipe, keep_latest=True))
    told = telling(listener, "decoding photos")
    training.recipe.prepare(found.origin.prefix.stages, told, noticing(listener))
    numbers = _numbers(found.origin.prefix.stages, chosen.seed, seeds)
    if len(numbers) < seeds:
        listener(Notice("a probe is the same network under every seed: it is trained once"))
    with workplace(runs) as place:
        with engine_as_made(training, found.made_by) as engine:
            trained = [
                _trained(found.origin.under(seed), engine, place, listener) for seed in numbers
            ]
        file = folder / _name(chosen, found.origin.prefix.backbone, numbers)
        _write(trained, place / "mean.safetensors", data, file, chosen)
    return Refitted(
        file=path_text(file),
        sha256=sha256_of(file),
        seeds=tuple(numbers),
        photos=len(data.of_split(Split.TRAIN)),
        seconds=time.perf_counter() - began,
    )


def _numbers(stages: Sequence[Stage], first: int, count: int) -> range:
    """Return the seeds to train under; nothing of a probe is random."""
    fitted = all(stage.train is Train.PROBE for stage in stages)
    return range(first, first + (1 if fitted else count))


def _trained(origin: Origin, engine: Engine, place: Path, listener: Listener) -> Path:
    folder = place / str(origin.trial.seed)
    folder.mkdir()
    trained = train_again(origin, engine, folder, _quietly(listener))
    if trained.failure:
        raise EncoreError(
            f"the refit of trial {origin.trial.number} under seed {origin.trial.seed} failed: "
            f"{trained.failure}"
        )
    return trained.file


def _name(chosen: Selection, backbone: str, seeds: Sequence[int]) -> str:
    under = f"s{seeds[0]}" if len(seeds) == 1 else f"s{seeds[0]}-{seeds[-1]}"
    return f"refit_{backbone}_t{chosen.trial:04d}_{under}.safetensors"


def _quietly(listener: Listener) -> Listener:
    """Report progress without scores: the validation photos are in train."""

    def heard(told: Progress) -> None:
        if isinstance(told, Working):
            listener(told)

    return heard


def _write(
    trained: Sequence[Path], mean: Path, data: Manifest, file: Path, chosen: Selection
) -> None:
    """Write the mean, with a card without scores, and the decision rule if prices were set."""
    from trainers.card import copy_with, read_card

    if len(trained) > 1:
        from trainers.soup import Averager

        Averager(data, trained).save_unjudged(range(len(trained)), mean)
    else:
        mean = trained[0]
    changes = {
        "metrics": {},
        "made_by": read_card(mean).made_by | {"trained on": "train and validation photos"},
    }
    changes |= chosen.rule
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        copy_with(mean, temporary, changes)
