"""Use case `gc`: what lies on the disk that can be made again."""

from contextlib import nullcontext
from dataclasses import dataclass

from storage.database import open_database
from storage.places import CACHE, open_vault, runs_folder
from storage.store import Store
from study.config import StudyConfig
from study.ownership import Ownership
from study.policy import SearchPolicy, Standing
from study.retention import Kept, discard, spare
from study.selector import find_study
from study.settings import settings_of
from study.studies import stored_config
from study.tree import grow


@dataclass(frozen=True)
class CachedPhotos:
    """A file of decoded photos, its size in bytes; `trouble` if it is not whole."""

    path: str
    size: int
    trouble: str


def cached(storage: str = StudyConfig().storage) -> list[CachedPhotos]:
    """List the decoded photos of all data sets, every one of them checked."""
    from trainers.data.cache import map_files
    from trainers.data.pixels import BrokenPixels, check_pixels

    found = []
    for path in map_files(runs_folder(storage) / CACHE):
        trouble = ""
        try:
            check_pixels(path)
        except BrokenPixels as error:
            trouble = str(error)
        found.append(CachedPhotos(str(path), path.stat().st_size, trouble))
    return found


def delete_cached(storage: str = StudyConfig().storage) -> list[CachedPhotos]:
    """Delete all decoded photos and list them. A search that uses them goes on reading them."""
    from trainers.data.cache import map_files

    deleted = []
    for path in map_files(runs_folder(storage) / CACHE):
        deleted.append(CachedPhotos(str(path), path.stat().st_size, ""))
        path.unlink()
    return deleted


@dataclass(frozen=True)
class SpareFile:
    """A weights file that can go, and why."""

    path: str
    size: int
    reason: str


@dataclass(frozen=True)
class Cleaned:
    """What of a study's weights can go, or has gone; sizes are in bytes."""

    study: str
    deleted: bool
    files: tuple[SpareFile, ...]
    size: int
    kept: int
    kept_size: int


def clean_weights(
    study: str | None = None,
    *,
    storage: str = StudyConfig().storage,
    keep: int | None = None,
    max_disk: str | None = None,
    delete: bool = False,
) -> Cleaned:
    """List the weights that nobody needs any more, by the study's settings or these; or delete.

    Raises `ConfigError`, `StudyNotFound`, and `StudyInUse` where a search would be disturbed.
    """
    store = Store(open_database(storage, create=False))
    try:
        record = find_study(store, study)
        flags = settings_of(keep=keep, max_disk=max_disk)
        config = stored_config(record, storage, flags)
        with Ownership(store, record.id) if delete else nullcontext():
            trials = store.trials(record.id)
            tree = grow(
                trials, store.stage_runs(record.id), store.links(record.id), store.ranks(record)
            )
            standing = Standing(trials, tree, {})
            ongoing = SearchPolicy(config).to_go(standing) > 0
            found = Kept.of(store, record)
            spares = spare(found, standing, config, ongoing=ongoing)
            if delete:
                discard(spares, store, open_vault(storage, record))
        gone = {each.checkpoint.path for each in spares}
        kept = [each.size for each in found.checkpoints if each.path not in gone]
        files = tuple(SpareFile(s.checkpoint.path, s.checkpoint.size, s.reason) for s in spares)
        return Cleaned(record.name, delete, files, sum(f.size for f in files), len(kept), sum(kept))
    finally:
        store.close()
