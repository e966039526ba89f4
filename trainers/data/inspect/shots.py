"""Random access to the photos of a data set as pixels. Free of torch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainers.allowance import usable_cpus
from trainers.data.cache import Cache
from trainers.data.decoding import read_known
from trainers.data.manifest import Manifest, Photo
from trainers.data.scale import Scale
from trainers.data.sources import Split

T = TypeVar("T")

_AHEAD = 256  # photos at work before the first of their results is taken


class Shots:
    """A manifest's photos at one scale, by their index in it, each RGB (H, W, 3).

    They are read from the cache, which decodes missing ones; if it has no room, or is None, each is
    decoded on access. Raises `DatasetError` for photos that have changed.
    """

    def __init__(
        self,
        manifest: Manifest,
        scale: Scale,
        cache: Cache | None,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.photos = manifest.photos
        self._manifest = manifest
        self._scale = scale
        self._places = _places(manifest)
        splits = {photo.split for photo in manifest.photos}
        self._maps = {}
        if cache is not None:
            cache.prepare([(split, scale) for split in splits], progress)
            self._maps = {split: cache.get(split, scale) for split in splits}

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return a photo's pixels."""
        photo = self.photos[index]
        pixels = self._maps.get(photo.split)
        if pixels is not None:
            return pixels.photo(self._places[index])
        return read_known(self._manifest, photo, [self._scale])[0]

    def each(self, look: Callable[[Photo, NDArray[np.uint8]], T]) -> Iterator[T]:
        """Apply a function to all photos in order, on all usable CPUs."""
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for start in range(0, len(self.photos), _AHEAD):
                some: Sequence[int] = range(start, min(start + _AHEAD, len(self.photos)))
                yield from pool.map(lambda index: look(self.photos[index], self[index]), some)


def _places(manifest: Manifest) -> list[int]:
    """Return each photo's index among those of its split."""
    counts = dict.fromkeys(Split, 0)
    places = []
    for photo in manifest.photos:
        places.append(counts[photo.split])
        counts[photo.split] += 1
    return places
