"""Photos that a list names by URL, such as gs://bucket/photo.jpg, and the paths of their copies.

Addresses are untrusted: none leads out of the folder of copies, no two lead to the same copy, and
none that may hold a password is shown.
"""

import os
import re
from collections.abc import Collection, Mapping
from itertools import takewhile
from pathlib import Path

from trainers.data.sources import is_inside
from trainers.errors import DatasetError

SCHEMES = ("gs", "gcs", "s3", "s3a", "https", "http")
"""The supported schemes."""

Steps = tuple[str, ...]
"""An address as scheme, bucket or host, folders and name: the way to its copy, too."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_LONGEST = 2000  # as a path has to fit into 4,096 bytes, with the folder that it starts in


def is_address(text: str) -> bool:
    """Return whether a cell of a list is an address, not a path."""
    return _ADDRESS.match(text) is not None


def steps_of(address: str, where: str) -> Steps:
    """Split an address; DatasetError if no photo can be fetched from it."""
    scheme, _, rest = address.partition("://")
    host = rest.partition("/")[0]
    # A password may hold a slash. Only addresses that pass this check are shown.
    if "?" in rest or "@" in host or (":" in host and "@" in rest):
        raise DatasetError(
            f"{where} names an address with a user, a password or a query, which would be stored "
            "with the study; leave them out, or download the photos and list their paths"
        )
    if scheme.lower() not in SCHEMES:
        raise DatasetError(
            f"{where} names the address {address!r}, but photos are fetched from gs://, s3:// and "
            "https:// alone; download the photos and list their paths"
        )
    steps = (scheme.lower(), *rest.split("/"))
    if len(steps) < 3 or not all(map(_is_plain, steps)) or len(address) > _LONGEST:
        raise DatasetError(
            f"{where} names {address[:200]!r}, which is not a plain address of a file "
            "such as gs://bucket/folder/photo.jpg; correct it or remove the row"
        )
    return steps


def _is_plain(step: str) -> bool:
    # fsspec interprets `::` as the beginning of another address.
    odd = step in ("", ".", "..") or "\\" in step or "::" in step or not step.isprintable()
    return not odd and len(step.encode()) <= 255


def common_folder(addresses: Collection[Steps]) -> Steps:
    """Return the common parent folders of all addresses."""
    first, last = min(addresses, default=()), max(addresses, default=())
    pairs = zip(first[:-1], last[:-1], strict=False)
    return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class Copies:
    """The paths of a list's photos below a folder, whether named by address or by path.

    The folder may be a copy of the bucket, of its content, or of any folder in it that holds all
    photos. Only the common prefix of all addresses is dropped: no two lead to the same copy. A list
    of addresses has its `root` at their common folder, so that its data are the same anywhere.
    """

    def __init__(self, addresses: Mapping[str, Steps], folder: Path, *, alone: bool) -> None:
        self.root = folder
        self._addresses = addresses
        self._shared = common_folder(addresses.values())
        self._end: Steps = ()
        if addresses:
            below = next(iter(addresses.values()))[len(self._shared) :]
            ends = (self._shared[start:] for start in range(len(self._shared)))
            self._end = next((e for e in ends if folder.joinpath(*e, *below).is_file()), ())
        place = os.path.realpath(folder.joinpath(*self._end))
        if alone and is_inside(place, str(folder)):
            self.root, self._end = Path(place), ()

    def path_of(self, path: str) -> str:
        """Return the path from the root to a photo that is listed by address, or by this path."""
        steps = self._addresses.get(path)
        return path if steps is None else "/".join((*self._end, *steps[len(self._shared) :]))
