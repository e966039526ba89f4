"""Photos that a CSV names by address, as AutoML Vision exports it, are fetched and are the data."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import cli
from storage.errors import RemoteUnusable
from storage.mirror import JOURNAL
from study.config.loading import load_config, settings_of
from study.datasets.download import at_hand, local_data
from study.events import Progress, Working
from study.provenance.retrain import with_data
from tests.object_store import ObjectStore
from tests.photo_servers import Answering, Google, served
from trainers.data.manifest import DatasetError, Manifest, Split, build_manifest

NAMES = [f"{top}/{index}.png" for top in ("roses", "tulips") for index in range(6)]
SPLITS = ("TRAIN", "TRAIN", "VALIDATION", "TRAINING", "TEST", "UNASSIGNED")


@dataclass(frozen=True)
class Store:
    """A place of photos: the address of its folder `flowers`, and what puts a file below it."""

    url: str
    put: Callable[[str, bytes], None]


@pytest.fixture
def web() -> Iterator[tuple[str, type[Answering]]]:
    """Serve files over HTTP."""
    with served(Answering) as server:
        yield server


@pytest.fixture(
    params=["http", *(pytest.param(each, marks=pytest.mark.long) for each in ("s3", "gs"))]
)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Return a web server, a bucket of S3 or one of Google's, each on loopback."""
    if request.param == "s3":
        objects: ObjectStore = request.getfixturevalue("object_store")
        bucket = objects.bucket()
        yield Store(
            f"s3://{bucket}/flowers",
            lambda name, content: objects.put(bucket, f"flowers/{name}", content),
        )
        return
    google = request.param == "gs"
    if google:
        pytest.importorskip("gcsfs", reason="there is no gcsfs: pip install '.[gcs]'")
    with served(Google if google else Answering) as (where, handler):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{where}")
        start = "/bucket/flowers" if google else "/flowers"
        yield Store(
            "gs://bucket/flowers" if google else f"http://{where}/flowers",
            lambda name, content: handler.objects.update({f"{start}/{name}": content}),
        )


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Make the photos, all different, in a folder here."""
    folder = tmp_path / "here" / "bucket" / "flowers"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 9, 7)).save(folder / name)
    return folder


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., Manifest]:
    """Return what makes a manifest of a CSV's text, with what was told of it in `told`."""

    def bring(text: str, root: Path | None = None, told: list[Progress] | None = None) -> Manifest:
        source = tmp_path / "export.csv"
        source.write_text(text)
        tell = [].append if told is None else told.append
        storage = f"sqlite:///{tmp_path}/runs/encore.db"
        place, below = local_data(str(source), root and str(root), storage, tell)
        return build_manifest(place, data_root=below)

    return bring


def automl(url: str) -> str:
    """List the photos as AutoML Vision does: no header, the split first."""
    splits = SPLITS * 2
    rows = zip(splits, NAMES, strict=True)
    return "".join(f"{split},{url}/{name},{name.split('/')[0]}\n" for split, name in rows)


def files_below(folder: Path) -> set[str]:
    """Return the files below a folder but the journals."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL)
    return {path.relative_to(folder).as_posix() for path in found}


def test_an_automl_export_is_the_same_data_as_its_photos_here(
    store: Store, flowers: Path, bring: Callable[..., Manifest]
) -> None:
    """Fetched from any store or found in a copy at any depth: one digest, and AutoML's splits."""
    for name in NAMES:
        store.put(name, (flowers / name).read_bytes())
    store.put("roses/not listed.png", b"")
    text = automl(store.url)
    (flowers / "list.csv").write_text(text.replace(f"{store.url}/", ""))
    expected = build_manifest(flowers / "list.csv")
    told: list[Progress] = []
    found = bring(text, told=told)
    assert found.digest == expected.digest
    assert found.root.name == "flowers"
    assert {p.path: p.split for p in found.photos}["roses/3.png"] is Split.TRAIN
    assert "roses/not listed.png" not in files_below(found.root)
    assert Working("fetching photos", len(NAMES), len(NAMES)) in told
    copy = flowers.parents[1] / "copy"
    shutil.copytree(flowers.parent, copy / store.url.split("/")[2])
    for root in (flowers, flowers.parent, copy):
        assert bring(text, root).digest == expected.digest, root


def test_what_changed_there_is_fetched_again(
    store: Store, flowers: Path, bring: Callable[..., Manifest]
) -> None:
    """And what did not change is not: a second look only asks."""
    for name in NAMES:
        store.put(name, (flowers / name).read_bytes())
    before = bring(automl(store.url))
    times = {name: (before.root / name).stat().st_mtime_ns for name in NAMES}
    store.put(NAMES[0], (flowers / NAMES[0]).read_bytes() + b"more")
    after = bring(automl(store.url))
    assert (after.root / NAMES[0]).read_bytes().endswith(b"more")
    assert {name for name in NAMES if times[name] != (after.root / name).stat().st_mtime_ns} == {
        NAMES[0]
    }


def test_missing_photos_are_one_sentence_before_any_is_fetched(
    store: Store, bring: Callable[..., Manifest], tmp_path: Path
) -> None:
    """It names some of them and the list, and how many there are."""
    store.put(NAMES[0], b"there")
    with pytest.raises(DatasetError) as caught:
        bring(automl(store.url))
    text = str(caught.value)
    assert text.startswith("11 of the 12 photos that 'export.csv' lists by address are not there")
    assert f"'{store.url}/{NAMES[1]}'" in text
    assert len(text) < 500
    assert not files_below(tmp_path / "runs")


def test_photos_of_one_name_stay_apart(
    web: tuple[str, type[Answering]], tmp_path: Path, bring: Callable[..., Manifest]
) -> None:
    """In two folders, on two servers, and in a flattened copy."""
    with served(Answering) as (other, elsewhere):
        rows, hosts = [], [(web[0], web[1]), (other, elsewhere)]
        for number in range(12):
            where, handler = hosts[number % 2]
            image = tmp_path / "one.png"
            Image.new("RGB", (4, 4), (number, 1, 1)).save(image)
            handler.objects[f"/a/{number}/photo.png"] = image.read_bytes()
            rows.append(
                f"http://{where}/a/{number}/photo.png,{'roses' if number < 6 else 'lilies'}"
            )
        found = bring("\n".join(rows))
    assert len({photo.sha256 for photo in found.photos}) == len(found.photos) == 12
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(image, flat / "photo.png")
    with pytest.raises(DatasetError, match=r"row 1 of 'export.csv' names .* no copy"):
        bring("\n".join(rows), flat)


HOSTILE = [
    "../../../out.png",
    "a/../../../../out.png",
    "./out.png",
    "a//out.png",
    "/etc/out.png",
    "a\\..\\..\\out.png",
    "x" * 256 + ".png",
    "a/" * 1000 + "out.png",
    "a\x1b[2J.png",
    "",
    "a::file:///etc/passwd",
]
SECRET = [
    "https://me:hunter2@host/a.png",
    "https://me:hun/ter2@host/a.png",
    "gs://hunter2@bucket/a.png",
    "https://host/a.png?sig=hunter2",
    "s3://bucket/a.png?secret=hunter2",
    "ftp://me:hunter2@host/a.png",
]
OTHER = ["file:///etc/passwd", "memory://a/b.png", "zip://a.png::http://h/z.zip", "gs:///a.png"]


@pytest.mark.parametrize("address", [*[f"gs://bucket/{name}" for name in HOSTILE], *SECRET, *OTHER])
def test_no_address_leads_out_or_tells_a_secret(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and exit code 4, before anything is asked for or written."""
    source = tmp_path / "list.csv"
    source.write_text(f'TRAIN,gs://bucket/a.png,roses\nTRAIN,"{address}",roses\n')
    storage = f"sqlite:///{tmp_path}/runs/encore.db"
    assert cli.run(["check-data", str(source), "--storage", storage]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "row 2 of 'list.csv' names" in said
    assert not any(secret in said for secret in ("hunter2", "ter2", "\x1b"))
    assert list(tmp_path.iterdir()) == [source]


def test_addresses_among_paths_need_a_folder_of_both(
    flowers: Path, bring: Callable[..., Manifest]
) -> None:
    """With `--data-root` there is one root of all photos; without it, the row is named."""
    rows = automl("gs://bucket/flowers").splitlines()
    mixed = [row.replace("gs://bucket/flowers/", "") if "tulips" in row else row for row in rows]
    with pytest.raises(DatasetError, match=r"row 7 .* the path 'tulips/0.png' among addresses"):
        bring("\n".join(mixed))
    found = bring("\n".join(mixed), flowers)
    assert found.digest == bring("\n".join(rows), flowers).digest


def test_a_server_that_fails_is_not_taken_for_missing_photos(
    web: tuple[str, type[Answering]],
    bring: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that refuses is told at once, one that is busy is asked again; no photo is blamed."""
    where, handler = web
    handler.status = 403
    with pytest.raises(RemoteUnusable, match="refuses access"):
        bring(automl(f"http://{where}"))
    monkeypatch.setattr("study.datasets.download.PATIENCE", 0.3)
    handler.status = 503
    with pytest.raises(RemoteUnusable, match="cannot be reached"):
        bring(automl(f"http://{where}"))


def test_a_study_finds_its_listed_photos_again(
    web: tuple[str, type[Answering]],
    flowers: Path,
    bring: Callable[..., Manifest],
    tmp_path: Path,
) -> None:
    """After `gc --cache` they are fetched anew, and `reproduce` reads the list where it lies."""
    where, handler = web
    handler.objects |= {f"/{name}": (flowers / name).read_bytes() for name in NAMES}
    manifest = bring(automl(f"http://{where}"))
    config = load_config(settings_of(data=str(tmp_path / "export.csv")))
    again = with_data(config, manifest.root)
    assert (again.data.source, again.data.root) == (config.data.source, str(manifest.root))
    rebuilt = build_manifest(Path(str(again.data.source)), data_root=Path(str(again.data.root)))
    assert rebuilt.digest == manifest.digest
    storage = f"sqlite:///{tmp_path}/runs/encore.db"
    shutil.rmtree(tmp_path / "runs")
    study = SimpleNamespace(config=json.loads(config.model_dump_json()))
    found = at_hand(manifest, study, storage)  # type: ignore[arg-type]
    assert all((found.root / photo.path).is_file() for photo in manifest.photos)
