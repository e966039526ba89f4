"""The contents of the cache beside a database: decoded photos, activations, fetched photos."""

from dataclasses import dataclass
from pathlib import Path

from storage.paths import CACHE, runs_folder
from storage.vault import folder_size
from study.config.schema import StudyConfig
from study.datasets.download import MIRRORS
from study.deployment.reference import KEPT


@dataclass(frozen=True)
class CachedPhotos:
    """A file of decoded photos or of activations, or a folder of fetched photos.

    `size` is in bytes; `trouble` says why a file is incomplete.
    """

    path: str
    size: int
    trouble: str = ""


def decoded_photos(storage: str = StudyConfig().storage) -> list[CachedPhotos]:
    """List the decoded photos of all data sets, and the arrays made of them, each one checked."""
    from trainers.data.cache import check_map
    from trainers.data.mapped import BrokenMap

    found = []
    for path in maps(storage):
        trouble = ""
        try:
            check_map(path)
        except BrokenMap as error:
            trouble = str(error)
        found.append(CachedPhotos(str(path), path.stat().st_size, trouble))
    return found


def fetched_photos(storage: str = StudyConfig().storage) -> list[CachedPhotos]:
    """List the photos that were fetched from URLs, a folder for each."""
    folders = sorted((runs_folder(storage) / CACHE / MIRRORS).glob("*/*/"))
    return [CachedPhotos(str(folder), folder_size(folder)) for folder in folders]


def kept_references(storage: str = StudyConfig().storage) -> list[CachedPhotos]:
    """List the references that `predict --unknown` compared photos with."""
    files = sorted((runs_folder(storage) / CACHE / KEPT).glob("*"))
    return [CachedPhotos(str(path), path.stat().st_size) for path in files]


def maps(storage: str) -> list[Path]:
    """Return the files of decoded photos and of the arrays made of them."""
    from trainers.data.cache import map_files

    return map_files(runs_folder(storage) / CACHE)
