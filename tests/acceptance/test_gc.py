"""`gc --cache` by the command line: it lists, and deletes cached photos alone, if told so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli
from study.datasets.download import local_data
from study.searching.ownership import Ownership
from tests.lab import Lab
from tests.object_store import ObjectStore
from trainers.data.cache import Cache
from trainers.data.scale import Scale
from trainers.data.sources import Split

SCALES = (Scale(24, squeeze=False, cut=True), Scale(32, squeeze=True, cut=False))
Gc = Callable[..., tuple[int, str]]


@pytest.fixture
def decoded(finished: Lab) -> Lab:
    """Return a finished study whose photos are decoded at two scales."""
    assert finished.manifest
    wanted = [(split, scale) for split in (Split.TRAIN, Split.VALID) for scale in SCALES]
    Cache(finished.folder / ".cache", finished.manifest).prepare(wanted)
    return finished


@pytest.fixture
def gc(capsys: pytest.CaptureFixture[str]) -> Gc:
    """Return what runs `gc --cache` on a lab, and gives its exit code and what it printed."""

    def run(lab: Lab, *flags: str) -> tuple[int, str]:
        code = cli.run(["gc", "--cache", "--storage", lab.url, *flags])
        said, complaint = capsys.readouterr()
        assert complaint == ""
        return code, said

    return run


def contents(folder: Path) -> dict[Path, bytes]:
    """Read all files of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def maps(lab: Lab) -> list[Path]:
    """Find the files of decoded photos."""
    return sorted((lab.folder / ".cache").glob("*/*.pixels"))


def test_decoded_photos_are_listed_and_stay(decoded: Lab, gc: Gc) -> None:
    """Each file by its path, the sum, and the flag that deletes; nothing is touched."""
    before = contents(decoded.folder)
    code, said = gc(decoded)
    assert code == 0
    assert len(maps(decoded)) == 4
    *lines, last = said.splitlines()
    assert [line.split(" MB  ")[1] for line in lines] == [str(path) for path in maps(decoded)]
    assert last.endswith(" MB of cached photos; --delete deletes them")
    assert contents(decoded.folder) == before


@pytest.mark.parametrize("flags", [(), ("--delete",)])
def test_json_is_one_document(decoded: Lab, gc: Gc, flags: tuple[str, ...]) -> None:
    """It says whether they are deleted, and of each its path, its size and its trouble."""
    files = [
        {"path": str(path), "size": path.stat().st_size, "trouble": ""} for path in maps(decoded)
    ]
    code, said = gc(decoded, "--json", *flags)
    assert (code, json.loads(said)) == (0, {"deleted": bool(flags), "files": files})
    assert len(maps(decoded)) == (0 if flags else 4)


def test_delete_takes_decoded_photos_alone(decoded: Lab, gc: Gc) -> None:
    """Weights, database and data stay, and who has a map open goes on reading it."""
    assert decoded.manifest
    pixels = Cache(decoded.folder / ".cache", decoded.manifest).get(Split.VALID, SCALES[0])
    assert pixels
    shown = pixels.photo(3).copy()
    before, data = contents(decoded.folder), contents(decoded.manifest.root)
    doomed = maps(decoded)
    code, said = gc(decoded, "--delete")
    assert code == 0
    assert said.splitlines()[-1].endswith(" MB of cached photos deleted")
    after = contents(decoded.folder)
    assert before.keys() - after.keys() == set(doomed)
    assert after == {path: before[path] for path in after}
    assert contents(decoded.manifest.root) == data
    assert (pixels.photo(3) == shown).all()
    assert gc(decoded, "--delete") == gc(decoded) == (0, "no photos are cached\n")


@pytest.mark.long
def test_photos_fetched_from_a_url_go_as_well_but_not_during_a_search(
    finished: Lab, gc: Gc, object_store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each URL's folder is listed and deleted; while a study is searched all stays as it was."""
    bucket = object_store.bucket()
    for name in ("a/1.png", "b/2.png"):
        object_store.put(bucket, f"photos/{name}", b"photo")

    def fetch() -> Path:
        return local_data(f"s3://{bucket}/photos", None, finished.url, lambda _: None)[0]

    folder = fetch()
    size = sum(path.stat().st_size for path in folder.rglob("*.*"))
    listed = {"path": str(folder), "size": size, "trouble": ""}
    assert json.loads(gc(finished, "--json")[1])["files"] == [listed]
    assert cli.run(["doctor", "--storage", finished.url]) == 0
    assert "fetched photos: 1 folder" in capsys.readouterr().out
    before = contents(folder)
    with finished.reading() as (store, study, _), Ownership(store, study.id):
        assert cli.run(["gc", "--cache", "--delete", "--storage", finished.url]) == 1
        assert "and may need photos that were fetched; wait for it" in capsys.readouterr().err
        assert contents(folder) == before
    gc(finished, "--delete")
    assert not folder.exists()
    assert contents(fetch()).keys() == before.keys()


def test_where_there_is_nothing_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder where nothing was ever searched, all forms of it answer and leave no trace."""
    monkeypatch.chdir(tmp_path)
    for flags in ((), ("--delete",), ("--json",), ("--delete", "--json")):
        assert cli.run(["gc", "--cache", *flags]) == 0
        said = capsys.readouterr().out
        if "--json" in flags:
            assert json.loads(said) == {"deleted": "--delete" in flags, "files": []}
        else:
            assert said == "no photos are cached\n"
    assert list(tmp_path.iterdir()) == []


def broken_in_every_way(lab: Lab) -> dict[Path, str]:
    """Break all maps but the last, each in its own way; return what is to be said of them."""
    one, two, three, _ = maps(lab)
    one.write_bytes(b"\0" + one.read_bytes()[1:])
    two.write_bytes(two.read_bytes()[:-1])
    three.write_bytes(b"")
    return {one: "photo 0 is damaged", two: "it is not whole", three: "it is not whole"}


def test_broken_files_are_named_and_can_be_deleted(decoded: Lab, gc: Gc) -> None:
    """Every photo of every file is looked at; what is wrong stands below its file, or beside."""
    troubles = broken_in_every_way(decoded)
    _, said = gc(decoded)
    lines = said.splitlines()
    for path, trouble in troubles.items():
        (place,) = [number for number, line in enumerate(lines) if line.endswith(str(path))]
        assert lines[place + 1] == f"   -> not whole: {trouble}; the next search decodes them again"
    assert said.count("not whole: ") == len(troubles)
    files: list[dict[str, Any]] = json.loads(gc(decoded, "--json")[1])["files"]
    found = {Path(file["path"]): file["trouble"] for file in files if file["trouble"]}
    assert found == troubles
    assert gc(decoded, "--delete")[0] == 0
    assert maps(decoded) == []


def test_doctor_counts_decoded_photos_and_names_broken_ones(
    decoded: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken ones are a notice, not a fault: the exit code stays 0, the way out is named."""

    def findings() -> list[tuple[str, str, str]]:
        assert cli.run(["doctor", "--json", "--storage", decoded.url]) == 0
        found = json.loads(capsys.readouterr().out)
        return [
            (finding["level"], finding["found"], finding["advice"])
            for finding in found
            if finding["what"] == "decoded photos"
        ]

    ((level, found, advice),) = findings()
    assert (level, advice) == ("good", "")
    assert found.startswith("4 files, 215.9 kB in ")
    assert found.endswith(f"{decoded.folder / '.cache'} (`encore gc --cache --delete` clears)")
    broken = broken_in_every_way(decoded)
    _, (level, found, advice) = findings()
    assert (level, advice) == ("notice", "harmless; the next search decodes them again")
    assert found == f"3 files not whole: {', '.join(map(str, broken))}"
    for path in maps(decoded):
        path.unlink()
    assert findings() == []
