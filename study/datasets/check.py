"""Use case `check-data`: what is wrong with photos, before anything is trained on them."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage.errors import StudyNotFound
from storage.paths import CACHE, runs_folder
from storage.store import open_store
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from study.datasets.cleaned_csv import Amended, Remove, amend, write_list
from study.datasets.download import local_data
from study.datasets.freeze import keep_check
from study.datasets.gate import look_over
from study.errors import ConfigError
from study.events import Listener, telling
from study.invocation import hint
from trainers.data.cache import Cache
from trainers.data.inspect.findings import Inspection
from trainers.data.inspect.group_guess import GroupGuess, guess_groups
from trainers.data.manifest import LeftOut, Manifest, build_manifest

REMOVED = (Remove.DUPLICATES, Remove.CONFLICTS)
"""What is removed from a cleaned CSV by default."""


@dataclass(frozen=True)
class Checked:
    """The result of `check-data`; `left_out` are files that cannot be used at all.

    `guess` are groups that the photos seem to form, where none were given; `search` is the command
    that searches on the data as they are.
    """

    data: str
    manifest: Manifest
    found: Inspection
    left_out: tuple[LeftOut, ...]
    amended: Amended | None
    guess: GroupGuess | None = None
    search: str = ""

    @property
    def leaks(self) -> bool:
        """Whether a search on the data would be refused."""
        return bool(self.found.leaks or self.found.parted) and self.amended is None


def check_data(
    data: str,
    *,
    data_root: str | None = None,
    storage: str = StudyConfig().storage,
    regroup: bool = False,
    group_by: str | None = None,
    write_csv: Path | None = None,
    remove: Collection[Remove] = REMOVED,
    seed: int = 0,
    listener: Listener = lambda _: None,
) -> Checked:
    """Check a folder or CSV of photos thoroughly; nothing in it is changed.

    `regroup` splits the photos again, by `seed`, duplicates and groups together; `group_by` finds
    groups as for `search`. `write_csv` is the cleaned CSV: the photos without those to `remove`.
    Decoded photos are kept beside `storage`. Raises `DatasetError`, and `ConfigError` for a CSV
    that would lie among the data.
    """
    if Remove.NOTHING in remove and len(remove) > 1:
        raise ConfigError("--remove nothing cannot be combined with another --remove; drop one")
    if write_csv is not None:
        refuse_inside(write_csv, Path(data))
    given = load_config(
        settings_of(data=data, data_root=data_root, group_by=group_by)
    ).data  # refuses as `search`
    source, root = local_data(str(given.source), given.root, storage, listener)
    manifest = build_manifest(
        source,
        data_root=root,
        seed=seed,
        split_anew=regroup,
        group_by=group_by,
        progress=telling(listener, "reading photos"),
        listing=telling(listener, "reading the list"),
    )
    cache = Cache(runs_folder(storage) / CACHE, manifest)
    manifest, found = look_over(manifest, seed, cache, listener, thorough=True)
    amended = None if write_csv is None else _amended(manifest, found, remove, write_csv)
    _keep(storage, found)
    guess = None if manifest.grouped else guess_groups(manifest.root, manifest.photos)
    words = ["search", "--data", data]
    words += ["--data-root", data_root] if data_root else []
    words += ["--regroup"] if regroup else []
    words += ["--group-by", group_by] if group_by else []
    return Checked(data, manifest, found, manifest.left_out, amended, guess, hint(*words))


def _amended(
    manifest: Manifest, found: Inspection, remove: Collection[Remove], file: Path
) -> Amended:
    """Write the cleaned CSV, without the photos to `remove`."""
    better, removed = amend(manifest, found, remove)
    write_list(better, file)
    words = ["search", "--data", file]
    if manifest.root != file.parent.resolve():
        words += ["--data-root", manifest.root]
    return Amended(str(file), len(better.photos), removed, hint(*words))


def _keep(storage: str, found: Inspection) -> None:
    """Store the findings with the studies on these data, if there are any, for their reports."""
    absent = suppress(StudyNotFound)
    with absent, open_store(storage, create=False) as store, suppress(LookupError):
        store.manifest(found.manifest_digest)  # LookupError: no study is on these data
        keep_check(store, found)


def refuse_inside(file: Path, data: Path) -> None:
    """Raise `ConfigError` for a file that would be written among the user's photos."""
    target, place = file.resolve(), data.resolve()
    if target.is_dir() or target == place or (place.is_dir() and target.is_relative_to(place)):
        raise ConfigError(f"{str(file)!r} must be a file outside of the data; name another place")
