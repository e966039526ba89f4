"""Frames and CSV files: all that is known of a study, and nothing that a spreadsheet would run."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.report.contents import Contents, read_contents
from study.report.tables import frames, write_csvs
from tests.contents import HOSTILE, make_contents
from tests.lab import Lab
from trainers.data.manifest import Photo, Split

FORMULAS = ("=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")


def rows_of(file: Path) -> list[list[str]]:
    """Read a CSV back, as a spreadsheet would."""
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.reader(opened))


def with_classes(names: tuple[str, ...]) -> Contents:
    """Make a study whose classes have these names."""
    made = make_contents(10, len(names))
    assert made.manifest is not None
    return replace(made, manifest=replace(made.manifest, classes=names))


def test_frames_hold_what_the_database_holds(finished: Lab) -> None:
    """Of a real study: a row a trial, stage run, epoch, schedule, class and validation photo."""
    made = frames(read_contents(storage=finished.url))
    with finished.reading() as (store, study, _):
        trials, runs = store.trials(study.id), store.stage_runs(study.id)
        epochs = store.epochs_of_study(study.id)
    assert made["trials"]["trial"].tolist() == [trial.number for trial in trials]
    assert made["trials"]["s1 image size"].tolist() == [
        trial.schedule.stages[0].image_size for trial in trials
    ]
    assert made["stages"]["key"].tolist() == [run.key for run in runs]
    assert made["epochs"]["lr"].tolist() == [epoch.lrs[-1] for epoch in epochs]
    losses = [epoch.calibrated_loss for epoch in epochs]
    assert made["epochs"]["calibrated_loss"].tolist() == losses
    assert None not in losses
    predictions, classes = made["predictions"], made["classes"]
    assert predictions["right"].sum() == (classes["recall"] * classes["photos"]).sum().round()
    sums = predictions[[f"p {name}" for name in classes["class"]]].sum(axis=1)
    assert sums.to_numpy() == pytest.approx(1, abs=0.01)
    shared = made["stages"].set_index("stage_run")
    assert (shared.loc[shared["parent"].dropna(), "stage"] == 1).all()
    best = made["schedules"]["mean"]
    assert best.is_monotonic_decreasing
    assert "duplicates" not in made


def test_a_study_without_anything_has_frames_all_the_same() -> None:
    """One running trial and no prediction: the columns are there, the rows are not."""
    made = frames(make_contents(1))
    assert made["trials"]["state"].tolist() == ["running"]
    for name in ("schedules", "classes", "predictions"):
        assert made[name].empty
        assert len(made[name].columns) > 5


def test_files_are_read_back_as_they_were(tmp_path: Path) -> None:
    """Hostile names survive the way through CSV, and nothing else is left in the folder."""
    made = frames(make_contents(12))
    files = write_csvs(made, tmp_path / "new" / "folder")
    assert sorted(files) == sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.stem for file in files] == list(made)
    header, *rows = rows_of(next(file for file in files if file.stem == "predictions"))
    assert {row[header.index("label")] for row in rows} == set(HOSTILE)
    assert len(rows) == 60
    again = write_csvs(made, tmp_path / "new" / "folder")
    assert again == files


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    """What a spreadsheet would run, in headers too, begins with an apostrophe; numbers do not."""
    made = with_classes(FORMULAS)
    assert made.manifest is not None
    spoilt = [replace(photo, path=f"={photo.path}") for photo in made.manifest.photos]
    made = replace(made, manifest=replace(made.manifest, photos=tuple(spoilt)))
    found = frames(made)
    found["classes"] = found["classes"].assign(times=-1).rename(columns={"times": "=times"})
    files = {file.stem: rows_of(file) for file in write_csvs(found, tmp_path)}
    cells = [cell for rows in files.values() for row in rows for cell in row]
    risky = [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]
    assert risky == []
    assert "'=times" in files["classes"][0]
    assert {row[-1] for row in files["classes"][1:]} == {"-1"}
    assert {row[0] for row in files["classes"][1:]} == {f"'{name}" for name in FORMULAS}


def test_a_name_of_odd_bytes_does_not_stop_the_writing(tmp_path: Path) -> None:
    """A file name that is no UTF-8 comes out spelt, not as an error."""
    made = make_contents(4)
    assert made.manifest is not None
    odd = [Photo("\udcff.png", 0, Split.VALID, "0" * 64, 1), *made.photos[1:]]
    files = write_csvs(
        frames(replace(made, manifest=replace(made.manifest, photos=tuple(odd)))), tmp_path
    )
    assert rows_of(files[-1])[1][0] == "\\udcff.png"


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle of a file: the one from before is whole, no rest stays behind."""
    import pandas as pd

    made = {"trials": frames(make_contents(4))["trials"]}
    (file,) = write_csvs(made, tmp_path)
    before = file.read_bytes()

    def break_off(_: Any, path: Path, **_options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", break_off)
    with pytest.raises(OSError, match="No space left"):
        write_csvs(made, tmp_path)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_the_pairs_that_the_data_gate_found_are_a_frame() -> None:
    """A row a pair, with both photos; there is no such frame where there was no check."""
    photos: list[dict[str, str]] = [
        {"path": "a/1.png", "label": "a", "split": "train"},
        {"path": "a/2.png", "label": "b", "split": "valid"},
    ]
    pair = {"first": photos[0], "second": photos[1], "likeness": "near"}
    pair |= {"agreement": 0.99, "cosine": 0.98, "mirrored": False, "leaks": True, "conflicts": True}
    made = frames(replace(make_contents(4), check={"pairs": [pair]}))["duplicates"]
    assert made["second_split"].tolist() == ["valid"]
    assert made["cosine"].tolist() == [0.98]
    empty = frames(replace(make_contents(4), check={"pairs": []}))["duplicates"]
    assert (len(empty), list(empty.columns)) == (0, list(made.columns))
