"""Groups by the command line: given splits that part them are refused, drawn ones keep them."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest

import cli
from tests.scenes import save, scene


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write four photos each of six patients in two classes, all of them different."""
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        for index in range(4):
            place = Path("photos") / ("day", "night")[number % 2]
            save(scene(50 * number + index, 80, 60), place / f"p{number}_{index}.jpg", quality=90)
    return tmp_path


@pytest.mark.long
def test_groups_through_the_command_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """check-data draws splits by group and lists them; a list that parts one ends with 4."""
    assert cli.run(("check-data", "photos")) == 0
    assert "48 photos seem to come in 12 groups, such as 'p9'" in capsys.readouterr().out
    rule = ("--group-by", r"/(p\d+)_")
    keeps = ("--write-csv", "list.csv", "--remove", "nothing")
    assert cli.run(("check-data", "photos", *rule, *keeps)) == 0
    rows = list(csv.DictReader((photos / "list.csv").read_text(encoding="utf-8").splitlines()))
    places = defaultdict(set)
    for row in rows:
        places[row["group"]].add(row["split"])
    assert len(places) == 12
    assert {len(splits) for splits in places.values()} == {1}
    assert set.union(*places.values()) == {"train", "valid", "test"}

    capsys.readouterr()
    for row in rows:  # one photo of p0 goes elsewhere
        if row["path"].endswith("p0_0.jpg"):
            row["split"] = "valid" if row["split"] != "valid" else "train"
    with (photos / "parted.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    where = ("--data", "parted.csv", "--data-root", "photos", "--devices", "cpu")
    assert cli.run(("search", *where, "--trials", "1")) == 4
    said = capsys.readouterr().err
    assert "1 group lies in several splits, such as 'p0' (" in said
    assert "check-data parted.csv --data-root photos`" in " ".join(said.split())
    for way in ("--write-csv", "--regroup", "--allow-leaks"):
        assert way in " ".join(said.split())
    assert cli.run(("check-data", "parted.csv", "--data-root", "photos")) == 4
    assert "1 group lies in several splits" in capsys.readouterr().out
    assert cli.run(("check-data", "parted.csv", "--data-root", "photos", "--regroup")) == 0
    assert cli.run(("search", *where, "--group-by", "(p", "--trials", "1")) == 2
    assert "--group-by must be a regular expression" in capsys.readouterr().err
