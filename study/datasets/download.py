"""Data under a URL, copied to this machine, so that later steps see local files only."""

import hashlib
import posixpath
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from storage.mirror import mirror, mirror_named
from storage.paths import CACHE, runs_folder
from storage.records import StudyRecord
from storage.remote import Remote, is_url
from study.events import Listener, noticing, telling
from trainers.data.addresses import Steps, common_folder
from trainers.data.csv_list import listed_addresses, listed_paths
from trainers.data.manifest import DatasetError, Manifest
from trainers.data.photo import is_photo_name
from trainers.data.sources import sample

MIRRORS = "mirrors"
"""The folder of such data in the cache."""

LISTED = "listed"
"""The folder of photos that lists name by address, among the mirrors."""

PATIENCE = 30.0
"""Seconds to wait for data that do not arrive; short, since nothing has been trained yet."""


def local_data(
    data: str, root: str | None, storage: str, listener: Listener
) -> tuple[Path, Path | None]:
    """Return where a folder or CSV of photos lies on this machine, and the root of a CSV's paths.

    Files under a URL are fetched unless they are here already. Raises `RemoteUnusable`, and
    `DatasetError` for a CSV that cannot be read.
    """
    bring = _Bringing(runs_folder(storage) / CACHE / MIRRORS, listener)
    if not data.lower().endswith(".csv"):
        source = bring(data, _is_visible_photo) if is_url(data) else Path(data)
        return source, Path(root) if root else None
    above, _, name = data.rpartition("/")
    source = bring(above, lambda found: found == name) / name if is_url(data) else Path(data)
    addresses = {} if root else listed_addresses(source)
    if addresses:
        return source, bring.listed(addresses.values(), source.name)
    base = root or (above if is_url(data) else None)
    if base is None or not is_url(base):
        return source, Path(base) if base else None
    listed = {posixpath.normpath(path) for path in listed_paths(source)}
    return source, bring(base, listed.__contains__)


def at_hand(manifest: Manifest, study: StudyRecord, storage: str) -> Manifest:
    """Return a study's manifest with its photos on this machine, even if it was made on another.

    Only those under a URL can be fetched, and those that a list names by address. Raises
    `RemoteUnusable`, and `DatasetError` for a list that has changed and no longer names them.
    """
    source, root = (study.config.get("data", {}).get(name) for name in ("source", "root"))
    if source is None or manifest.root.is_dir():
        return manifest
    if not is_url(root or source) and (root or not Path(source).is_file()):
        return manifest
    place, below = local_data(source, root, storage, lambda _: None)
    folder = place.parent if place.suffix.lower() == ".csv" else place
    return replace(manifest, root=below or folder)


class _Bringing:
    """Has a folder for each URL, all below one."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        self._folder = folder
        self._say, self._tell = noticing(listener), telling(listener, "fetching photos")
        self._look = telling(listener, "looking for photos")

    def __call__(self, url: str, wanted: Callable[[str], bool]) -> Path:
        """Return the folder that holds the wanted files of a URL."""
        # The last part of the URL is the most natural name of the data.
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        folder = self._folder / digest / (url.rpartition("/")[2] or "data")
        remote = Remote(url, give_up_after=PATIENCE, say=self._say)
        skipped = mirror(remote, folder, wanted, self._tell)
        if skipped:
            self._say(
                f"skipped {len(skipped)} names under {url} that are not paths of files, such as "
                f"{skipped[0]!r}"
            )
        return folder

    def listed(self, addresses: Collection[Steps], name: str) -> Path:
        """Return the folder that holds the photos of some addresses, which a list names.

        Each lies below `LISTED` at its own address, and so there is one copy for all lists.
        """
        places: dict[Steps, dict[str, Steps]] = {}
        for steps in addresses:
            places.setdefault(steps[:2], {})["/".join(steps[2:])] = steps
        top, missing = self._folder / LISTED, list[str]()
        for (scheme, host), files in places.items():
            remote = Remote(f"{scheme}://{host}", give_up_after=PATIENCE, say=self._say)
            away = mirror_named(remote, top / scheme / host, files, self._look, self._tell)
            missing += [f"{remote.url}/{file}" for file in away]
        if missing:
            raise DatasetError(
                f"{len(missing)} of the {len(addresses)} photos that {name!r} lists by address are "
                f"not there: {sample(missing)}; correct the addresses or remove the rows"
            )
        return top.joinpath(*common_folder(addresses))


def _is_visible_photo(name: str) -> bool:
    """Return whether a name would be read from a folder on this machine."""
    steps = name.split("/")
    hidden = any(step.startswith(".") or step == "__MACOSX" for step in steps)
    # A name that leads out of the folder is not a photo either, but is worth a warning.
    return is_photo_name(steps[-1]) and (not hidden or ".." in steps)
