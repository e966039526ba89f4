"""The data of a search: frozen once, and refused if the study knows them otherwise."""

from collections.abc import Callable
from pathlib import Path

from storage.database import open_database
from storage.errors import StudyNotFound
from storage.places import runs_folder
from storage.store import Store
from study.config import StudyConfig
from study.progress import Listener, Working
from trainers.data.digits import digits_folder
from trainers.data.manifest import DatasetError, Manifest, Split, build_manifest, differences


def freeze_data(config: StudyConfig, listener: Listener) -> Manifest:
    """Freeze the data; refuse it if the study knows it otherwise."""
    known, seed = _known(config)
    if config.data.source is None:
        source = digits_folder(runs_folder(config.storage) / "data")
    else:
        source = Path(config.data.source)
    root = Path(config.data.root) if config.data.root else None
    progress = telling(listener, "reading photos")
    manifest = build_manifest(source, data_root=root, seed=seed, known=known, progress=progress)
    if known is not None and known.digest != manifest.digest:
        raise DatasetError(
            f"the data of study {config.study_name!r} have changed: "
            f"{differences(known, manifest)}; put them back as they were, or "
            "give the search a new name with --study"
        )
    return manifest


def _known(config: StudyConfig) -> tuple[Manifest | None, int]:
    """Give the manifest that the study was begun with, if it was, and the seed of its splits."""
    try:
        store = Store(open_database(config.storage, create=False))
    except StudyNotFound:
        return None, config.seeds.first
    try:
        study = store.study(config.study_name)
        record = store.manifest(study.manifest_digest)
        # The splits stay as they are, whatever seed explores from now on.
        return Manifest.from_json(record.document, Path(record.root)), study.config["split_seed"]
    except StudyNotFound:
        return None, config.seeds.first
    finally:
        store.close()


def telling(listener: Listener, what: str) -> Callable[[int, int], None]:
    """Give what tells a listener how far some work is."""
    return lambda done, total: listener(Working(what, done, total))


def describe_data(config: StudyConfig, manifest: Manifest) -> str:
    """Say in a line what data there are."""
    counts = ", ".join(f"{len(manifest.of_split(split)):,} {split}" for split in Split)
    name = config.data.source or "the handwritten digits of scikit-learn (no --data was given)"
    return f"{name}: {len(manifest.classes)} classes, {counts}"
