"""Data under a URL become a folder here: fetched once, whole, and never outside of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from storage.errors import RemoteUnusable
from storage.mirror import JOURNAL, mirror
from storage.remote import Remote
from study.datasets.download import at_hand, local_data
from study.events import Notice, Progress
from tests.object_store import ObjectStore
from trainers.data.manifest import Manifest, build_manifest


def fill(folder: Path, count: int = 12) -> None:
    """Make photos of two classes, in a folder and below it."""
    for index in range(count):
        path = folder / ("roses" if index % 2 else "[bold]tulips/below ?") / f"{index} #1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 9, 7)).save(path)


def put(store: ObjectStore, bucket: str, folder: Path, prefix: str) -> None:
    """Upload a folder."""
    for path in folder.rglob("*.*"):
        store.put(bucket, f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder but the journal."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def photos_at(object_store: ObjectStore, tmp_path: Path) -> tuple[Path, str, str]:
    """Return a folder of photos, and the bucket and URL that hold the same."""
    folder, bucket = tmp_path / "photos", object_store.bucket()
    fill(folder)
    put(object_store, bucket, folder, "data/photos")
    return folder, bucket, f"s3://{bucket}/data/photos"


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., tuple[Manifest, list[Progress]]]:
    """Return what makes a manifest of data, wherever they lie, and what was told of it."""

    def bring(data: str, root: str | None = None) -> tuple[Manifest, list[Progress]]:
        told: list[Progress] = []
        where = local_data(data, root, f"sqlite:///{tmp_path}/runs/encore.db", told.append)
        return build_manifest(where[0], data_root=where[1]), told

    return bring


def test_a_folder_under_a_url_is_the_same_data(
    photos_at: tuple[Path, str, str],
    object_store: ObjectStore,
    bring: Callable[..., tuple[Manifest, list[Progress]]],
) -> None:
    """The manifest's digest is that of the folder here, though three of ten requests fail."""
    folder, _, url = photos_at
    with object_store.failing(0.3) as line:
        found, _ = bring(url)
    assert found.digest == build_manifest(folder).digest
    assert found.root.name == "photos"
    assert line.spoiled


@pytest.mark.parametrize("rooted", [False, True])
def test_a_csv_under_a_url_is_the_same_data(
    photos_at: tuple[Path, str, str],
    object_store: ObjectStore,
    bring: Callable[..., tuple[Manifest, list[Progress]]],
    *,
    rooted: bool,
) -> None:
    """A CSV beside the photos, or elsewhere with the URL of its paths' root: only these come."""
    folder, bucket, url = photos_at
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))[1:]
    lines = [f'"{path}",{path.split("/")[0]}' for path in paths]
    (folder / "list.csv").write_text("\n".join(lines))
    place = "lists" if rooted else "data/photos"
    object_store.put(bucket, f"{place}/list.csv", (folder / "list.csv").read_bytes())
    given = (f"s3://{bucket}/{place}/list.csv", url if rooted else None)
    found, _ = bring(*given)
    assert found.digest == build_manifest(folder / "list.csv").digest
    assert len(list(found.root.rglob("*.png"))) == len(paths)
    with object_store.failing(0) as line:
        bring(*given)
    assert line.asked <= 4, "a second look lists, and fetches nothing"


def test_only_what_changed_is_fetched_again(
    photos_at: tuple[Path, str, str], object_store: ObjectStore, tmp_path: Path
) -> None:
    """New, changed, cut and lost photos are fetched, those that are gone there go here."""
    folder, bucket, url = photos_at
    remote, here = Remote(url), tmp_path / "copy"
    mirror(remote, here, lambda _: True)
    assert files_of(here) == files_of(folder)
    names = sorted(files_of(folder))
    object_store.put(bucket, f"data/photos/{names[0]}", b"other")
    object_store.put(bucket, "data/photos/new.png", b"new")
    object_store.remove(bucket, f"data/photos/{names[1]}")
    (here / names[2]).write_bytes(b"cut")
    (here / names[3]).unlink()
    told: list[tuple[int, int]] = []
    mirror(remote, here, lambda _: True, lambda *counts: told.append(counts))
    expected = files_of(folder) | {names[0]: b"other", "new.png": b"new"}
    del expected[names[1]]
    assert files_of(here) == expected
    assert told[0] == (len(expected) - 4, len(expected))


@pytest.mark.long
def test_a_copy_that_was_broken_off_goes_on(
    photos_at: tuple[Path, str, str], tmp_path: Path
) -> None:
    """What has been fetched is known, even if the last line of the journal was cut off."""
    folder, _, url = photos_at
    here = tmp_path / "copy"
    seen = 0

    def stop(done: int, _total: int) -> None:
        nonlocal seen
        seen = done
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mirror(Remote(url), here, lambda _: True, stop)
    journal = here / JOURNAL
    journal.write_text(journal.read_text()[:-9])
    told: list[int] = []
    mirror(Remote(url), here, lambda _: True, lambda done, _: told.append(done))
    assert told[0] == 4
    assert files_of(here) == files_of(folder)
    mirror(Remote(url), here, lambda _: True, lambda done, _: told.append(done))
    assert told[-1] == len(files_of(folder))


def test_no_name_leads_out_of_the_copy(object_store: ObjectStore, tmp_path: Path) -> None:
    """Whatever objects are called, nothing is written beside the copy; it is told."""
    bucket, told = object_store.bucket(), list[Progress]()
    hostile = ["../out.png", "a/../../out.png", "/abs.png", "a//b.png", "a\\..\\b.png"]
    hostile += ["a/" + "x" * 256 + ".png", "both.png", "./dot.png"]
    for name in [*hostile, "both.png/inside.png", "roses/1.png", "tulips/2.png"]:
        object_store.put(bucket, f"p/{name}", b"photo")
    before = files_of(tmp_path)
    here = tmp_path / "deep" / "copy"
    passed_over = mirror(Remote(f"s3://{bucket}/p"), here, lambda _: True)
    assert set(files_of(here)) == {"both.png/inside.png", "roses/1.png", "tulips/2.png"}
    assert set(passed_over) <= set(hostile)
    written = files_of(tmp_path).keys() - before.keys()
    assert all(name.startswith("deep/copy/") for name in written - {f"deep/copy/{JOURNAL}"})
    local_data(f"s3://{bucket}/p", None, f"sqlite:///{tmp_path}/encore.db", told.append)
    assert any(isinstance(each, Notice) and "skipped" in each.text for each in told)


def test_photos_that_another_machine_found_are_brought_here(
    photos_at: tuple[Path, str, str], tmp_path: Path
) -> None:
    """Data under a URL are fetched where they are missing; a folder cannot be, and stays named."""
    folder, _, url = photos_at
    away = replace(build_manifest(folder), root=tmp_path / "away")
    storage = f"sqlite:///{tmp_path}/here/encore.db"
    of_url, of_folder = (
        SimpleNamespace(config={"data": {"source": source, "root": None}})
        for source in (url, str(tmp_path / "away"))
    )
    assert at_hand(away, of_folder, storage).root == tmp_path / "away"  # type: ignore[arg-type]
    found = at_hand(away, of_url, storage)  # type: ignore[arg-type]
    assert all((found.root / photo.path).is_file() for photo in away.photos)
    assert found.digest == away.digest


def test_an_empty_place_is_one_sentence(object_store: ObjectStore, tmp_path: Path) -> None:
    """An address with nothing behind it says so, before a folder is made."""
    with pytest.raises(RemoteUnusable, match="check the address"):
        mirror(Remote(f"s3://{object_store.bucket()}/no"), tmp_path / "copy", lambda _: True)
    assert not (tmp_path / "copy").exists()
