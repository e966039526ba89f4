"""Train stages again, as they were trained, and compare the results."""

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from storage.liveness import Life, life
from storage.records import Kind, StudyRecord
from storage.remote import is_url
from storage.store import Store
from study.config.schema import EngineKind, StudyConfig
from study.engines.base import Engine, EpochEnded, StageFailed
from study.engines.inline import InlineEngine
from study.engines.setup import Setup, Training
from study.events import Listener, Notice, Working
from study.formatting import score_text
from study.provenance.lookup import Origin
from study.studies import stored_config
from trainers.base import BEST, LAST, Precision, StageTask
from trainers.files import sha256_of
from trainers.handover import NETWORK
from trainers.metrics import EpochMetrics

if TYPE_CHECKING:
    from torch import Tensor

_FILES = {Kind.BEST: BEST, Kind.LAST: LAST}
_MAX_THREADS = 1024

_AGAIN = ".again-"
"""The prefix of a temporary folder's name; the number of its process follows."""


def settings_as_made(
    config: StudyConfig, made_by: Mapping[str, str], device: str = "auto"
) -> StudyConfig:
    """Return settings under which training gives the same weights again, as far as possible.

    `made_by` is from their card, if there is one; `device` is "auto" for the kind that made them.
    The card takes precedence: the study may have been searched with other settings since.
    """
    kind, _, precision = made_by.get("device", "").rpartition(", ")
    update: dict[str, Any] = {}
    if device != "auto":
        update = {"devices": device}
    elif kind:
        update = {"devices": kind if kind in ("cpu", "mps") else "auto"}
        update |= {"precision": Precision(precision)} if precision in set(Precision) else {}
    if kind:
        update["compile"] = made_by.get("compiled") == "yes"
        update["deterministic"] = made_by.get("deterministic") == "yes"
    return config.model_copy(update=update)


def with_data(config: StudyConfig, root: Path) -> StudyConfig:
    """Return a study's data as an absolute path, independent of the current folder."""
    if config.data.source is None or not root.is_dir():
        return config
    source = Path(config.data.source)
    if config.data.root is not None:  # the photos' root: the CSV may be anywhere
        data = config.data.model_copy(update={"root": str(root)})
    else:
        listed = source.suffix.lower() == ".csv"
        there = root / source.name if listed else root
        # A CSV of URLs is not beside the photos that were fetched.
        stays = listed and not there.exists() and (is_url(config.data.source) or source.is_file())
        moved = {"root": str(root)} if stays else {"source": str(there)}
        data = config.data.model_copy(update=moved)
    return config.model_copy(update={"data": data})


def config_as_made(
    store: Store, study: StudyRecord, storage: str, made_by: Mapping[str, str], device: str
) -> StudyConfig:
    """Return a study's settings as they made some weights, with its data as an absolute path."""
    root = Path(store.manifest(study.manifest_digest).root)
    return settings_as_made(with_data(stored_config(study, storage), root), made_by, device)


def setup_as_made(config: StudyConfig) -> Setup:
    """Return the set-up of such settings, with its first slot only."""
    return Setup(config.model_copy(update={"engine": EngineKind.AUTO}))


@contextmanager
def engine_as_made(training: Training, made_by: Mapping[str, str]) -> Iterator[Engine]:
    """Return the engine to train in, with as many threads as made the weights."""
    import torch  # seconds to import

    made, slots = training.recipe, training.setup.slots
    alone = len(slots) > 1 or training.config.engine is EngineKind.PROCESSES
    slot, threads, before = slots[0], made_by.get("threads", ""), torch.get_num_threads()
    running: Engine
    if made.own is not None and alone:  # what a worker may use is known in a worker only
        running = training.processes([slot])
    elif made.own is not None:
        running = InlineEngine(made.trainer(slot, alone=False))
    else:
        known = threads.isdecimal() and 0 < int(threads) <= _MAX_THREADS
        slot = replace(slot, alone=slot.device)
        slot = replace(slot, threads=int(threads)) if known else slot
        running = InlineEngine(made.trainer(slot, alone=alone or known))
    try:
        with closing(running):
            yield running
    finally:
        torch.set_num_threads(before)


@contextmanager
def workplace(runs: Path) -> Iterator[Path]:
    """Make a temporary folder to train in; also remove those of killed processes."""
    runs.mkdir(parents=True, exist_ok=True)
    for folder in runs.glob(f"{_AGAIN}*"):
        pid = folder.name.removeprefix(_AGAIN).partition("-")[0]
        if pid.isdecimal() and life(int(pid), None) is Life.GONE:
            shutil.rmtree(folder, ignore_errors=True)
    with TemporaryDirectory(prefix=f"{_AGAIN}{os.getpid()}-", dir=runs) as own:
        yield Path(own)


@dataclass(frozen=True)
class Retrained:
    """The result: a weights file and its epoch, or why there is none."""

    file: Path
    epoch: EpochMetrics | None
    failure: str | None = None


def train_again(origin: Origin, engine: Engine, folder: Path, listener: Listener) -> Retrained:
    """Train all stages that made some weights, from the root up to their epoch."""
    stages, start = origin.prefix.stages, None
    done, total = 0, sum(stage.epochs for stage in stages[:-1]) + origin.epoch
    for position, prefix in enumerate(origin.prefix.prefixes()):
        last = position == len(stages) - 1
        until = origin.epoch if last else stages[position].epochs
        kind = origin.kind if last else Kind(stages[position + 1].start_from)
        place = folder / str(position)
        place.mkdir()
        task = StageTask(schedule=prefix, seed=origin.trial.seed, folder=place, start=start)
        engine.submit(str(position), task)
        trained = Retrained(place / _FILES[kind], None, "it ended before that epoch")
        with closing(engine.events()) as events:
            for event in events:
                match event:
                    case StageFailed(_, what, reason):
                        return Retrained(trained.file, None, f"{what}: {reason}")
                    case EpochEnded(key, epoch):
                        done += 1
                        _tell(listener, origin, epoch, done, total)
                        if epoch.epoch == until:
                            trained = Retrained(trained.file, epoch)
                            if until < stages[position].epochs:
                                engine.cancel(key)
        if trained.failure:
            return trained
        start = trained.file
    return trained


def _tell(listener: Listener, origin: Origin, epoch: EpochMetrics, done: int, total: int) -> None:
    metric, stages = origin.study.metric, origin.prefix.stages
    listener(Working("training again", done, total))
    listener(
        Notice(
            f"stage {epoch.stage + 1} of {len(stages)}, epoch {epoch.epoch} of "
            f"{stages[epoch.stage].epochs}: {metric} {score_text(metric, epoch.score(metric))}"
        )
    )


@dataclass(frozen=True)
class Compared:
    """Whether the tensors of two weights files are bit-identical, and how much they differ.

    `largest_difference` is absolute, over all tensors; None if it cannot be measured: other names,
    other shapes, values that are not numbers.
    """

    identical: bool
    largest_difference: float | None


def compare_files(old: Path, new: Path) -> Compared | None:
    """Compare two weights files; None if `old` cannot be read.

    Files other than safetensors, which a custom trainer may write, are compared as a whole; a
    sealed `last`, which contains only the network, with the network of `new`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # torch: seconds to import

    try:
        again = load_file(new)
    except SafetensorError:
        same = sha256_of(old) == sha256_of(new)
        return Compared(same, 0.0 if same else None)
    try:
        before = load_file(old)
    except SafetensorError:
        return None
    if all(name.startswith(NETWORK) for name in before):
        again = {name: tensor for name, tensor in again.items() if name.startswith(NETWORK)}
    return compare_tensors(before, again)


def compare_tensors(first: Mapping[str, "Tensor"], second: Mapping[str, "Tensor"]) -> Compared:
    """Compare the tensors of two networks."""
    if _kinds(first) != _kinds(second):
        return Compared(identical=False, largest_difference=None)
    pairs = [(first[name], second[name]) for name in first]
    if all(_same_bits(a, b) for a, b in pairs):
        return Compared(identical=True, largest_difference=0.0)
    gaps = [float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel()]
    measured = all(math.isfinite(gap) for gap in gaps)
    return Compared(identical=False, largest_difference=max(gaps) if measured else None)


def _kinds(tensors: Mapping[str, "Tensor"]) -> dict[str, tuple[object, Sequence[int]]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def _same_bits(first: "Tensor", second: "Tensor") -> bool:
    # As bytes: NaN differs from itself, and -0.0 equals 0.0.
    import torch

    a, b = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second))
    return torch.equal(a, b)
