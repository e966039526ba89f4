"""The data of a search: frozen once, checked, and refused if they differ from the study's."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import StudyNotFound
from storage.paths import runs_folder
from storage.records import StudyRecord
from storage.store import Store
from study.config.schema import Data, StudyConfig
from study.datasets.download import local_data
from study.datasets.gate import few_photos, imbalance, look_over, refuse_leaks, summary
from study.errors import ConfigError
from study.events import Listener, Notice, telling
from study.formatting import count_text
from study.invocation import hint
from study.studies import manifest_of
from trainers.data.cache import Cache, wanted_by
from trainers.data.digits import digits_folder
from trainers.data.folds import as_in, in_folds
from trainers.data.inspect.document import document_of
from trainers.data.inspect.findings import Inspection
from trainers.data.inspect.fingerprints import CHECK_SCALE
from trainers.data.inspect.inspection import moved
from trainers.data.manifest import DatasetError, Manifest, Photo, Split, build_manifest, differences
from trainers.metrics import Metric
from trainers.schedule import Stage


@dataclass(frozen=True)
class Frozen:
    """The data, and what was found in them; None if they were checked before."""

    manifest: Manifest
    check: Inspection | None = None


@dataclass(frozen=True)
class Known:
    """The data that a study began with, if it has begun; `seed` draws its splits."""

    study: StudyRecord | None
    manifest: Manifest | None
    seed: int


def freeze_data(
    config: StudyConfig,
    store: Store | None,
    listener: Listener,
    cache_folder: Path | None = None,
) -> Frozen:
    """Read the data and check them; see `known_data`, `read_data` and `pass_gate`."""
    known = known_data(config, store)
    return pass_gate(config, known, read_data(config, known, listener), listener, cache_folder)


def known_data(config: StudyConfig, store: Store | None) -> Known:
    """Return the data that the study of these settings began with, if it is in `store`."""
    try:
        study = store.study(config.study_name) if store else None
    except StudyNotFound:
        study = None
    if store is None or study is None:
        return Known(None, None, config.seeds.first)
    # The splits stay as they are, whatever seed explores from now on.
    return Known(study, manifest_of(store, study), study.config["split_seed"])


def read_data(config: StudyConfig, known: Known, listener: Listener) -> Manifest:
    """Read all photos; DatasetError if they cannot be used, or differ from the study's."""
    if known.manifest is not None and known.manifest.folds != (config.data.folds or 0):
        raise ConfigError(_other_folds(config.study_name, known.manifest.folds))
    folded = known.manifest is not None and known.manifest.folds
    if config.data.source is None:
        source, root = digits_folder(runs_folder(config.storage) / "data"), None
    else:
        given = config.data.source, config.data.root
        source, root = local_data(*given, config.storage, listener)
    manifest = build_manifest(
        source,
        data_root=root,
        seed=known.seed,
        known=known.manifest and known.manifest.of_one_network(),
        split_anew=config.data.regroup,
        group_by=config.data.group_by,
        progress=telling(listener, "reading photos"),
        listing=telling(listener, "reading the list"),
    )
    if known.manifest is not None and folded:
        manifest = as_in(manifest, known.manifest)
    if known.manifest is not None and known.manifest.digest != manifest.digest:
        raise DatasetError(
            f"the data of study {config.study_name!r} have changed: "
            f"{differences(known.manifest, manifest)}; put them back as they were, or "
            "give the search a new name with --study"
        )
    return manifest


def _other_folds(study: str, folds: int) -> str:
    begun = f"in {folds} folds; give --folds {folds}" if folds else "on one split; drop --folds"
    return f"study {study!r} is searched {begun}, or give the search a new name with --study"


def pass_gate(
    config: StudyConfig,
    known: Known,
    manifest: Manifest,
    listener: Listener,
    cache_folder: Path | None = None,
    stages: Sequence[Stage] = (),
) -> Frozen:
    """Check data before they become a study's; refuse photos shared between splits.

    Photos are decoded into `cache_folder`, if there is one, at once for all `stages`.
    """
    if known.manifest is not None:
        return Frozen(manifest)
    if config.data.source is None:
        return Frozen(_dealt(config, manifest, known.seed))
    # photos in folds are other data to the cache: decoded once the folds are known
    if config.data.folds:
        stages = ()
    cache = cache_folder and _decoded(config, manifest, listener, cache_folder, stages)
    return _looked_over(config, manifest, known.seed, listener, cache or None)


def _looked_over(
    config: StudyConfig,
    manifest: Manifest,
    seed: int,
    listener: Listener,
    cache: Cache | None,
) -> Frozen:
    manifest, found = look_over(manifest, seed, cache, listener)
    if config.data.folds:
        manifest = _dealt(config, manifest, seed, found.groups)
        found = moved(found, manifest)
    elif config.trainer is None and (few := few_photos(manifest)):
        listener(Notice(few))
    command = _check_command(config.data)
    if not config.data.allow_leaks:
        refuse_leaks(found, command)
    if said := summary(found):
        listener(Notice(f"the data: {said}; `{command}` shows them"))
    if config.metric is Metric.ACCURACY and (uneven := imbalance(found)):
        others = "--metric balanced_accuracy and --metric f1 count each class alike"
        listener(Notice(f"{uneven}; accuracy says little about small ones, {others}"))
    if config.metric is Metric.ACCURACY and manifest.n_questions > 1:
        listener(
            Notice(
                "photos have several labels: accuracy counts each label of each photo, most of "
                "which are absent; --metric macro_f1 and --metric micro_f1 count those that are "
                "there"
            )
        )
    return Frozen(manifest, found)


def _dealt(
    config: StudyConfig, manifest: Manifest, seed: int, together: Sequence[Sequence[Photo]] = ()
) -> Manifest:
    """Deal photos into folds if the settings ask for it."""
    folds = config.data.folds
    return in_folds(manifest, folds, seed, together) if folds else manifest


def _check_command(data: Data) -> str:
    """Return the command that shows the problems of the data."""
    options = {"--data-root": data.root, "--group-by": data.group_by}
    given = [word for option in options.items() if option[1] is not None for word in option]
    return hint("check-data", data.source, *given)


def _decoded(
    config: StudyConfig,
    manifest: Manifest,
    listener: Listener,
    folder: Path,
    stages: Sequence[Stage],
) -> Cache:
    cache = Cache(folder, manifest, limit=config.data.cache_limit)
    looked_over = [(split, CHECK_SCALE) for split in Split if manifest.of_split(split)]
    cache.prepare([*wanted_by(stages), *looked_over], telling(listener, "decoding photos"))
    return cache


def keep_check(store: Store, found: Inspection) -> None:
    """Store the findings, for later reports."""
    store.save_check(found.manifest_digest, json.dumps(document_of(found), ensure_ascii=True))


def describe_data(config: StudyConfig, manifest: Manifest) -> str:
    """Say in a line what data there are."""
    counts = ", ".join(f"{len(manifest.of_split(split)):,} {split}" for split in Split)
    if manifest.folds:
        inside, test = (len(manifest.of_split(split)) for split in (Split.VALID, Split.TEST))
        counts = f"{inside:,} in {manifest.folds} folds, {test:,} test"
    name = config.data.source or "the handwritten digits of scikit-learn (no --data was given)"
    n_groups = manifest.n_groups()
    groups = f", in {count_text(n_groups, 'group')}" if n_groups else ""
    return f"{name}: {len(manifest.classes)} {manifest.kind.plural}, {counts}{groups}"
