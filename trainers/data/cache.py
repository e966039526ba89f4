"""Each photo is decoded once for all trials, sizes and workers. Free of torch.

Decoded photos are in memory-mapped files, one for each split and scale of a manifest, shared by any
number of processes. So are arrays of a frozen network's activations.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock

from trainers.data import arrays
from trainers.data.arrays import Array, ArrayKind, check_array, open_array, write_array
from trainers.data.decoding import decoded, estimated_bytes
from trainers.data.manifest import Manifest
from trainers.data.mapped import BrokenMap
from trainers.data.pixels import SUFFIX, Pixels, PixelsWriter, View, check_pixels, open_pixels
from trainers.data.scale import Scale, training_scale, validation_scale
from trainers.data.sources import Split
from trainers.schedule import Stage

Wanted = Sequence[tuple[Split, Scale]]
ProgressCallback = Callable[[int, int], None]


def wanted_by(stages: Iterable[Stage]) -> Wanted:
    """Return the splits and scales that these stages need, the smallest scale first."""
    wanted: set[tuple[Split, Scale]] = set()
    for stage in stages:
        wanted.add((Split.TRAIN, training_scale(stage)))
        wanted.add((Split.VALID, validation_scale(stage.image_size, stage.crop)))
    return sorted(wanted, key=lambda each: (each[1], each[0]))


class Cache:
    """The decoded photos of a manifest, stored under `folder` for all processes and studies.

    The folder may take `limit` bytes, by default half of the free disk. `say` is called with a
    sentence when something could not be stored.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        limit: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._root = folder
        self._folder = folder / manifest.digest[:16]
        self._manifest = manifest
        self._limit = limit
        self._say = say
        self._open: dict[View, Pixels] = {}
        self._refused: set[View] = set()
        self._unkept: set[ArrayKind] = set()

    def get(self, split: Split, scale: Scale) -> Pixels | None:
        """Return the photos of a split at a scale, decoding them if needed; None without room."""
        self.prepare([(split, scale)])
        return self._open.get(self._view(split, scale))

    def prepare(self, wanted: Wanted, progress: ProgressCallback = lambda *_: None) -> None:
        """Make the maps of these splits and scales; `progress` gets (photos done, in all).

        Without room for all, the first ones are stored. Another process that needs the same waits
        for them.
        """
        views = [self._view(split, scale) for split, scale in dict.fromkeys(wanted)]
        try:
            if not self._missing(views):
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock"):
                for stale in self._folder.glob(f".*{SUFFIX}.*.tmp"):  # of a builder that was killed
                    stale.unlink()
                missing = self._missing(views)
                self._build(self._affordable(missing), progress)
                self._missing(missing)  # opens them
        except OSError as error:
            self._refused.update(views)
            self._say(
                f"decoded photos cannot be stored in {self._folder} ({error.strerror}); training "
                "is "
                "slower without; make room, or make the folder writable"
            )

    def array(self, kind: ArrayKind, blocks: Callable[[], Iterator[Array]]) -> Array | None:
        """Return an array, computed by `blocks` if needed; None without room.

        Another process that needs the same waits for it.
        """
        path = self._folder / kind.name
        if kind in self._unkept:
            return None
        try:
            if (found := self._opened(path, kind)) is not None:
                return found
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / f".{kind.name}.lock"):
                for stale in self._folder.glob(f".{kind.name}.*.tmp"):  # of one that was killed
                    stale.unlink()
                if (found := self._opened(path, kind)) is None and self._has_room(kind):
                    write_array(path, kind, blocks())
                    found = self._opened(path, kind)
        except OSError as error:
            found = None
            self._say(
                f"activations of frozen layers cannot be stored in {self._folder} "
                f"({error.strerror}); make room, or make the folder writable"
            )
        if found is None:
            self._unkept.add(kind)
        return found

    def _opened(self, path: Path, kind: ArrayKind) -> Array | None:
        if not path.exists():
            return None
        try:
            found = open_array(path, kind)
        except BrokenMap as error:
            self._say(f"{path} is damaged ({error}); it is computed again")
            path.unlink(missing_ok=True)  # another process may have been faster
            return None
        _touch(path)
        return found

    def _has_room(self, kind: ArrayKind) -> bool:
        room = self._room()
        if kind.n_bytes <= room + self._drop_others(kind.n_bytes - room):
            return True
        self._say(
            f"{kind.n_bytes / 1e6:,.0f} MB of activations of frozen layers would exceed "
            "the cache limit; what memory cannot hold is recomputed in every epoch, which is "
            "slower: raise --cache-limit"
        )
        return False

    def _view(self, split: Split, scale: Scale) -> View:
        return View(self._manifest.digest, split, scale)

    def _missing(self, views: Sequence[View]) -> list[View]:
        """Open the intact maps; return those neither open nor refused."""
        for view in views:
            path = self._folder / view.name
            if view in self._open or view in self._refused or not path.exists():
                continue
            try:
                n_photos = len(self._manifest.of_split(view.split))
                self._open[view] = open_pixels(path, view, n_photos)
            except BrokenMap as error:
                self._say(f"{path} is damaged ({error}); its photos are decoded again")
                path.unlink(missing_ok=True)  # another process may have been faster
                continue
            _touch(path)
        return [view for view in views if view not in self._open and view not in self._refused]

    def _affordable(self, views: Sequence[View]) -> list[View]:
        """Choose, from the first on, the maps that the limit has room for."""
        chosen, needed = [], 0
        for view in views:
            size = estimated_bytes(self._manifest, view.split, view.scale)
            room = self._room() - needed
            if size <= room + self._drop_others(size - room):
                chosen.append(view)
                needed += size
        refused = [view for view in views if view not in chosen]
        if refused:
            self._refused.update(refused)
            edges = ", ".join(str(edge) for edge in sorted({view.scale.edge for view in refused}))
            self._say(
                f"decoded photos of {edges} px would exceed the cache limit; what memory cannot "
                "hold is decoded again for every batch, which is slower: raise --cache-limit"
            )
        return chosen

    def _room(self) -> int:
        used = sum(path.stat().st_size for path in map_files(self._root))
        if self._limit is None:
            return (shutil.disk_usage(self._folder).free - used) // 2
        return self._limit - used

    def _drop_others(self, size: int) -> int:
        """Remove the least recently used files of other manifests; return the bytes freed."""
        others = [
            path
            for path in map_files(self._root)
            if path.parent != self._folder or path.suffix != SUFFIX
        ]
        if sum(path.stat().st_size for path in others) < size:
            return 0
        gained = 0
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if gained < size:
                gained += path.stat().st_size
                path.unlink()  # a process that has it mapped can still read it
        return gained

    def _build(self, views: Sequence[View], progress: ProgressCallback) -> None:
        parts = [(split, [view for view in views if view.split is split]) for split in Split]
        parts = [(split, of_split) for split, of_split in parts if of_split]
        total, done = sum(len(self._manifest.of_split(split)) for split, _ in parts), 0
        for split, of_split in parts:
            with ExitStack() as undo:
                writers = [PixelsWriter(self._folder / view.name, view) for view in of_split]
                for writer in writers:
                    undo.callback(writer.abandon)
                for photos in decoded(self._manifest, split, [view.scale for view in of_split]):
                    for writer, photo in zip(writers, photos, strict=True):
                        writer.add(photo)
                    done += 1
                    progress(done, total)
                for writer in writers:
                    writer.finish()


def map_files(folder: Path) -> list[Path]:
    """List the maps and arrays under a cache's folder, those of all manifests."""
    return sorted(path for suffix in _CHECKS for path in folder.glob(f"*/*{suffix}"))


def check_map(path: Path) -> None:
    """Check all of a map or an array; raises `BrokenMap`."""
    _CHECKS[path.suffix](path)


def _touch(path: Path) -> None:
    with suppress(OSError):  # some maps may only be read
        os.utime(path)  # the least recently used is removed first


_CHECKS = {SUFFIX: check_pixels, arrays.SUFFIX: check_array}
