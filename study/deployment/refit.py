"""Use case `best --refit`: the chosen schedule trained once more, on the validation photos as well.

They chose it; as photos to train on they serve once more, and the estimate of the choice, which was
trained without them, is a cautious one of what comes of it.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from storage.paths import CACHE, runs_folder
from storage.store import open_store
from study.datasets.freeze import freeze_data
from study.errors import ConfigError
from study.events import Listener, Progress, Working, noticing, telling
from study.formatting import path_text
from study.provenance.lookup import find
from study.provenance.retrain import (
    config_as_made,
    engine_as_made,
    setup_as_made,
    train_again,
    workplace,
)
from study.selection.result import Selection
from trainers.data.manifest import Split
from trainers.errors import EncoreError
from trainers.files import replacing, sha256_of


@dataclass(frozen=True)
class Refitted:
    """Weights of the chosen schedule and seed, trained on `photos`: train and validation together.

    Nothing has validated them.
    """

    file: str
    sha256: str
    photos: int
    seconds: float


def refit(
    chosen: Selection,
    *,
    storage: str,
    folder: Path = Path("chosen"),
    device: str = "auto",
    listener: Listener = lambda _: None,
) -> Refitted:
    """Train the chosen schedule as it was trained, on more photos; write the weights to `folder`.

    Raises `ConfigError` for a trainer of the user's own, which may choose epochs by photos that are
    in train now, `DatasetError` where the data have changed, `EncoreError` if the training fails.
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
    with workplace(runs) as place, engine_as_made(training, found.made_by) as engine:
        trained = train_again(found.origin, engine, place, _quietly(listener))
        if trained.failure:
            raise EncoreError(f"the refit of trial {chosen.trial} failed: {trained.failure}")
        file = folder / (
            f"refit_{found.origin.prefix.backbone}_t{chosen.trial:04d}_s{chosen.seed}.safetensors"
        )
        _write(trained.file, file, chosen)
    return Refitted(
        file=path_text(file),
        sha256=sha256_of(file),
        photos=len(data.of_split(Split.TRAIN)),
        seconds=time.perf_counter() - began,
    )


def _quietly(listener: Listener) -> Listener:
    """Tell how far it is, and no scores: the photos that judge are in train."""

    def heard(told: Progress) -> None:
        if isinstance(told, Working):
            listener(told)

    return heard


def _write(trained: Path, file: Path, chosen: Selection) -> None:
    """Write the weights, whose card tells no scores, and the decision rule if prices were set."""
    from trainers.card import copy_with, read_card

    changes = {
        "metrics": {},
        "made_by": read_card(trained).made_by | {"trained on": "train and validation photos"},
    }
    if chosen.operation:
        changes["decision"] = chosen.operation.decision.to_dict()
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        copy_with(trained, temporary, changes)
