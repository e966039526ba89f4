"""Use case `gc`: what lies on the disk that can be made again."""

from dataclasses import dataclass

from storage.places import CACHE, runs_folder
from study.config import StudyConfig


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
