"""Use case `doctor`: check the machine, the database and all files, and suggest fixes."""

import platform
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from storage.database import open_database
from storage.errors import DatabaseTooNew, DatabaseUnusable, RemoteUnusable, StudyNotFound
from storage.paths import CACHE, open_vault, runs_folder
from storage.records import Checkpoint, State, StudyRecord
from storage.redaction import redact
from storage.remote import is_url
from storage.store import Store
from storage.vault import Vault
from study.config.schema import StudyConfig
from study.formatting import count_text, score_text, size_text
from study.history.caches import decoded_photos, fetched_photos
from study.invocation import hint
from study.searching.ownership import searcher
from study.studies import manifest_of, stored_config
from trainers.allowance import usable_cpus, usable_memory
from trainers.data.manifest import Split

PACKAGES = ("encore-search", "torch", "torchvision", "timm", "optuna", "sqlalchemy", "pillow")
LOW_DISK_BYTES = 5 * 10**9
COLLAPSE = 0.10
"""A stage run this much below the median of its siblings has collapsed."""


DAMAGE = (DatabaseUnusable, LookupError, ValueError, zlib.error)
"""The advice for rows that cannot be read."""

DAMAGED = "restore the database from a copy; damaged predictions are skipped meanwhile"


class Level(StrEnum):
    """How serious a finding is."""

    GOOD = "good"
    NOTICE = "notice"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One check: its subject, the finding, and the advice."""

    what: str
    level: Level
    found: str
    advice: str = ""


def doctor(*, storage: str = StudyConfig().storage) -> list[Finding]:
    """Check the machine, the database and the files of every study. Changes nothing."""
    return [*_machine(), *_disk(runs_folder(storage)), *_cache(storage), *_database(storage)]


def _machine() -> Iterator[Finding]:
    yield Finding("python", Level.GOOD, platform.python_version())
    for name in PACKAGES:
        try:
            yield Finding(name, Level.GOOD, version(name))
        except PackageNotFoundError:
            if name != "encore-search":
                yield Finding(name, Level.BAD, "not installed", "pip install encore-search")
    try:
        import torch
        import torchvision  # noqa: F401 - a build that does not fit torch's fails right here

        from trainers.device import choose_device, mps_runs
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        advice = "install torch and torchvision together, as PyPI serves them"
        yield Finding("torch", Level.BAD, f"cannot be imported: {reason}", advice)
        return
    device = choose_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type}"
    yield Finding("device", Level.GOOD, f"{name}, {count_text(usable_cpus(), 'CPU')}")
    if device.type == "cuda":
        shared = (
            "NVIDIA MPS runs: workers on one GPU compute side by side"
            if mps_runs()
            else "NVIDIA MPS does not run: workers on one GPU take turns "
            "(`nvidia-cuda-mps-control -d` starts it)"
        )
        yield Finding("sharing a GPU", Level.GOOD, shared)
    yield Finding("memory", Level.GOOD, f"{usable_memory() / 1e9:.1f} GB free for this process")


def _disk(folder: Path) -> Iterator[Finding]:
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK_BYTES
    advice = "each stage of a trial keeps its weights; make room" if low else ""
    level = Level.NOTICE if low else Level.GOOD
    yield Finding("free disk", level, f"{free / 1e9:.1f} GB", advice)


def _cache(url: str) -> Iterator[Finding]:
    files, place = decoded_photos(url), runs_folder(url) / CACHE
    for what, kept, thing in (
        ("decoded photos", files, "file"),
        ("fetched photos", fetched_photos(url), "folder"),
    ):
        size = f"{_count(len(kept), thing)}, {size_text(sum(each.size for each in kept))}"
        if kept:
            found = f"{size} in {place} (`{hint('gc', '--cache', '--delete')}` clears)"
            yield Finding(what, Level.GOOD, found)
    broken = [file.path for file in files if file.trouble]
    if broken:
        yield Finding(
            "decoded photos",
            Level.NOTICE,
            f"{_count(len(broken), 'file')} not whole: {_some(broken)}",
            "harmless; the next search decodes them again",
        )


def _database(url: str) -> Iterator[Finding]:
    try:
        store = Store(open_database(url, create=False))
    except StudyNotFound as error:
        yield Finding("database", Level.NOTICE, str(error), f"`{hint('search')}` makes it")
        return
    except (DatabaseUnusable, DatabaseTooNew) as error:
        yield Finding("database", Level.BAD, str(error), "see the message")
        return
    try:
        studies = store.studies()
        found = f"{redact(url)}, up to date, {_count(len(studies), 'study', 'studies')}"
        yield Finding("database", Level.GOOD, found)
        if not store.is_written:
            yield Finding(
                "database",
                Level.NOTICE,
                "read-only: it is read as it is, and nothing in its folder is refreshed",
                "harmless to `best`, `ls`, `show` and `report --to`; a search needs to write there",
            )
        for study in studies:
            yield from _readable(store, study, url)
    except DAMAGE as error:
        yield Finding("database", Level.BAD, f"cannot be read: {error}", DAMAGED)
    finally:
        store.close()


def _readable(store: Store, study: StudyRecord, url: str) -> Iterator[Finding]:
    """Check a study as far as the database can be read; the others are checked as well."""
    try:
        yield from _study(store, study, open_vault(url, study), url)
    except DAMAGE as error:
        found = f"the database is damaged: {str(error).splitlines()[0]}"
        yield Finding(f"study {study.name}: rows", Level.BAD, found, DAMAGED)


def _study(store: Store, study: StudyRecord, vault: Vault, url: str) -> Iterator[Finding]:
    trials = store.trials(study.id)
    checkpoints = store.checkpoints(study.id)
    size = size_text(vault.size())
    summary = f"{_count(len(trials), 'trial')}, {_count(len(checkpoints), 'weights file')}"
    yield Finding(f"study {study.name}", Level.GOOD, f"{summary}, {size}")
    yield from _photos(store, study)
    yield from _predictions(store, study, url)
    yield from _unfinished(store, study)
    try:
        yield from _files(store, study, vault, checkpoints)
    except RemoteUnusable as error:
        yield Finding(f"study {study.name}: vault", Level.BAD, str(error), "see the message")
    yield from _collapsed(store, study)


def _predictions(store: Store, study: StudyRecord, url: str) -> Iterator[Finding]:
    """Report the size of the predictions, and what happens if it is too large."""
    kept = store.kept_predictions(study)
    size, short = sum(each.size for each in kept), sum(not each.full for each in kept)
    limit = stored_config(study, url).keep.max_predictions
    if not kept:
        return
    shortened = (
        f", {short:,} of them shortened; beyond {size_text(limit)} (keep.max_predictions) a search "
        f"and `{hint('gc', '--delete')}` keep of the weakest epochs the answer and two "
        "probabilities per photo"
        if short or size > limit
        else ""
    )
    yield Finding(
        f"study {study.name}: predictions",
        Level.GOOD,
        f"{size_text(size)} of {_count(len(kept), 'epoch')}{shortened}",
    )
    try:
        labels = manifest_of(store, study).labels(Split.VALID)
    except LookupError:  # there are no photos to compare with
        return
    damaged = store.damaged_predictions([(e.stage_run_id, e.epoch) for e in kept], labels)
    if damaged:
        names = [f"epoch {epoch} of stage run {run}" for run, epoch in damaged]
        found = f"{_count(len(damaged), 'epoch')} whose predictions are damaged: {_some(names)}"
        yield Finding(f"study {study.name}: predictions", Level.BAD, found, DAMAGED)


def _files(
    store: Store, study: StudyRecord, vault: Vault, checkpoints: list[Checkpoint]
) -> Iterator[Finding]:
    broken = vault.broken(checkpoints)
    if vault.remote is not None:
        size = size_text(sum(file.size for file in checkpoints))
        found = f"{vault.remote.url}, {size}"
        yield Finding(f"study {study.name}: vault", Level.GOOD, found)
    if broken:
        yield Finding(
            f"study {study.name}: files",
            Level.BAD,
            f"{_count(len(broken), 'weights file')} missing or changed: {_some(broken)}",
            "restore them; they are skipped meanwhile, and a search trains again what it needs",
        )
    yield from _strays(store, study, vault)


def _photos(store: Store, study: StudyRecord) -> Iterator[Finding]:
    """Check that the folder of the study's photos is still there."""
    given = study.config.get("data") or {}
    if is_url(given.get("root") or given.get("source") or ""):
        return  # they are fetched when they are needed
    try:
        root = Path(store.manifest(study.manifest_digest).root)
    except LookupError:
        return
    if not root.is_dir():
        yield Finding(
            f"study {study.name}: photos",
            Level.BAD,
            f"the folder {root} is not there",
            "put it back, or search with --data where the same photos lie now",
        )


def _unfinished(store: Store, study: StudyRecord) -> Iterator[Finding]:
    running = store.running_trials(study.id)
    owner = searcher(store, study.id)
    if owner is not None:
        yield Finding(
            f"study {study.name}: owner",
            Level.GOOD,
            f"process {owner.pid} on {owner.host} is searching it",
        )
    elif running:
        yield Finding(
            f"study {study.name}: unfinished",
            Level.NOTICE,
            f"{_count(len(running), 'trial')} not finished",
            "run the same search command again: it goes on from there",
        )


def _strays(store: Store, study: StudyRecord, vault: Vault) -> Iterator[Finding]:
    strays = list(vault.strays(store.expected(study.id)))
    if strays:
        yield Finding(
            f"study {study.name}: strays",
            Level.NOTICE,
            f"{_count(len(strays), 'file')} in its folder that no row points to: {_some(strays)}",
            "they may be your own or another database's, so a search leaves them alone; "
            f"`{hint('gc', '--strays', '--study', study.name)}` lists them, with --delete it "
            "deletes them",
        )


def _collapsed(store: Store, study: StudyRecord) -> Iterator[Finding]:
    """Compare each stage run with those at the same position and image size."""
    if not study.metric.higher_is_better:
        return
    scores: dict[int, float] = {}
    for epoch in store.epochs_of_study(study.id):
        score = epoch.score(study.metric)
        scores[epoch.stage_run_id] = max(score, scores.get(epoch.stage_run_id, score))
    siblings = defaultdict(list)
    for run in store.stage_runs(study.id):
        if run.state is State.COMPLETE and run.id in scores:
            siblings[run.position, run.image_size].append(run)
    for (position, size), runs in siblings.items():
        usual = median(scores[run.id] for run in runs)
        for run in runs:
            if scores[run.id] < usual - COLLAPSE:
                found = score_text(study.metric, scores[run.id])
                yield Finding(
                    f"study {study.name}: collapsed",
                    Level.NOTICE,
                    f"trial {run.trial_number}, stage {position + 1} ({size} px) reached {found}, "
                    f"its siblings {score_text(study.metric, usual)}",
                    f"look at `{hint('show', run.trial_number, '--study', study.name)}`: most "
                    "often its learning rate is too high",
                )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
