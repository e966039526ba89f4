"""Use case `gc`: files on the disk that are no longer needed or can be made again."""

import shutil
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from storage.errors import StudyInUse, StudyNotFound
from storage.paths import open_vault
from storage.records import KeptPredictions, StudyRecord
from storage.store import Store, open_store
from study.budget import device_time
from study.config.loading import settings_of
from study.config.schema import StudyConfig
from study.history.caches import CachedPhotos, fetched_photos, kept_references, maps
from study.searching.ownership import Ownership, searcher
from study.searching.policy import Independent, SearchPolicy, Standing
from study.searching.retention import Kept, discard, shorten_all, spare, too_many
from study.stage_tree import StageTree
from study.studies import find_study, manifest_of, stored_config
from trainers.data.manifest import Split


def delete_cached(storage: str = StudyConfig().storage) -> list[CachedPhotos]:
    """Delete all decoded and fetched photos and list them.

    A running search can still read decoded ones. If there are fetched ones, no search may run:
    `StudyInUse`.
    """
    folders = fetched_photos(storage)
    if folders:
        _check_idle(storage)
    files = [CachedPhotos(str(path), path.stat().st_size) for path in maps(storage)]
    files += kept_references(storage)
    for file in files:
        Path(file.path).unlink()
    for folder in folders:
        shutil.rmtree(folder.path)
    return [*files, *folders]


def _check_idle(storage: str) -> None:
    with suppress(StudyNotFound), open_store(storage, create=False) as store:
        for study in store.studies():
            if owner := searcher(store, study.id):
                raise StudyInUse(
                    f"study {study.name!r} is being searched by process {owner.pid} on "
                    f"{owner.host} and may need photos that were fetched; wait for it, or stop it"
                )


@dataclass(frozen=True)
class SpareFile:
    """A weights file that can be deleted, and why."""

    path: str
    size: int
    reason: str


@dataclass(frozen=True)
class Cleaned:
    """The weights of a study that can be, or were, deleted; sizes are in bytes.

    `predictions` counts the epochs whose predictions can be, or were, shortened in the database;
    `predictions_size` is their size before.
    """

    study: str
    deleted: bool
    files: tuple[SpareFile, ...]
    size: int
    kept: int
    kept_size: int
    predictions: int = 0
    predictions_size: int = 0


def clean_weights(
    study: str | None = None,
    *,
    storage: str = StudyConfig().storage,
    keep: int | str | None = None,
    max_disk: str | None = None,
    delete: bool = False,
) -> Cleaned:
    """List the weights that are no longer needed, by the study's settings or these; or delete.

    Raises `ConfigError`, `StudyNotFound`, and `StudyInUse` where a search would be disturbed.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        flags = settings_of(keep=keep, max_disk=max_disk)
        config = stored_config(record, storage, flags)
        with Ownership(store, record.id) if delete else nullcontext() as mine:
            writing = store.fenced(mine.claim) if mine else store
            trials = store.trials(record.id)
            tree = StageTree.of(store, record)
            found = Kept.of(store, record)
            ongoing = _is_ongoing(store, record, config, Standing(trials, tree, {}))
            spares = spare(found, trials, tree, config, ongoing=ongoing)
            long = _too_long(store, record, config)
            if delete:
                discard(spares, record.id, writing, open_vault(storage, record))
                if long:
                    shorten_all(long, writing, manifest_of(store, record).labels(Split.VALID))
        gone = {each.checkpoint.path for each in spares}
        kept = [each.size for each in found.checkpoints if each.path not in gone]
        files = tuple(SpareFile(s.checkpoint.path, s.checkpoint.size, s.reason) for s in spares)
        return Cleaned(
            record.name,
            delete,
            files,
            sum(f.size for f in files),
            len(kept),
            sum(kept),
            len(long),
            sum(each.size for each in long),
        )


def clean_strays(
    study: str | None = None, *, storage: str = StudyConfig().storage, delete: bool = False
) -> Cleaned:
    """List the files in a study's folder that look like weights but that it knows nothing of.

    They may be a user's own or another database's, so only `delete` removes them.
    Raises `StudyNotFound`, and `StudyInUse` where a search would be disturbed.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        vault = open_vault(storage, record)
        with Ownership(store, record.id) if delete else nullcontext():
            found = vault.strays(store.expected(record.id))
            for path in found if delete else ():
                vault.remove(path)
        kept = [each.size for each in store.checkpoints(record.id)]
        files = tuple(SpareFile(path, size, "no row points to it") for path, size in found.items())
        return Cleaned(record.name, delete, files, sum(found.values()), len(kept), sum(kept))


def _is_ongoing(store: Store, study: StudyRecord, config: StudyConfig, standing: Standing) -> bool:
    """Return whether the same command would begin any more trials."""
    policy = SearchPolicy(config, Independent(config))
    time = device_time(store, study.id, config.workers_per_device, policy.compute)
    return policy.to_go(standing) != 0 and not time.spent


def _too_long(store: Store, study: StudyRecord, config: StudyConfig) -> list[KeptPredictions]:
    """Choose the predictions to shorten; the manifest is read only if there are any."""
    kept, limit = store.kept_predictions(study), config.keep.max_predictions
    if sum(each.size for each in kept) <= limit:
        return []
    return too_many(kept, limit, len(manifest_of(store, study).labels(Split.VALID)))
