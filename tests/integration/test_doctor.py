"""`doctor` on a study that the coordinator has made: it finds what is wrong, and only that."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from storage.database import open_database
from storage.ownership import Claim
from storage.records import Kind
from storage.store import Store
from study.history import doctor as module
from study.history.cleanup import clean_strays
from study.history.doctor import Finding, Level, doctor
from study.searching.ownership import STALE_AFTER
from tests.lab import Lab, schedule, stage

MakeLab = Callable[..., Lab]


@pytest.fixture(autouse=True)
def _healthy(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Look at a machine with nothing to say and enough room, unless it is the machine we test."""
    if "machine" not in request.node.name:
        monkeypatch.setattr(module, "_machine", lambda: iter(()))
        room = SimpleNamespace(free=10**12)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: room)


def complaints(lab: Lab) -> list[Finding]:
    """Return what is not good."""
    return [finding for finding in doctor(storage=lab.url) if finding.level is not Level.GOOD]


def test_a_study_in_order_is_only_counted(finished: Lab) -> None:
    """Trials, files and their size, and no advice."""
    findings = doctor(storage=finished.url)
    assert {finding.level for finding in findings} == {Level.GOOD}
    assert all(finding.advice == "" for finding in findings)
    study = next(finding for finding in findings if finding.what == "study lab")
    with finished.reading() as (store, record, _):
        count = len(store.checkpoints(record.id))
    assert re.fullmatch(rf"8 trials, {count} weights files, \d+\.\d kB", study.found)
    assert "1 study" in next(f.found for f in findings if f.what == "database")


def test_doctor_changes_nothing(finished: Lab) -> None:
    """A stray file is named, and stays."""
    stray = finished.folder / "lab" / "stray.safetensors"
    stray.write_bytes(b"stray")
    before = sorted(path.name for path in finished.folder.rglob("*"))
    outcome = finished.outcome()
    doctor(storage=finished.url)
    assert sorted(path.name for path in finished.folder.rglob("*")) == before
    assert finished.outcome() == outcome


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"changed")])
def test_missing_and_changed_files_are_bad(finished: Lab, damage: Callable[[Path], object]) -> None:
    """They are counted and named; what they are needed for is said."""
    with finished.reading() as (store, study, vault):
        paths = [c.path for c in store.checkpoints(study.id)]
        for path in paths[:4]:
            damage(vault.path(path))
    (finding,) = complaints(finished)
    assert (finding.what, finding.level) == ("study lab: files", Level.BAD)
    assert finding.found.startswith("4 weights files missing or changed: ")
    assert finding.found.endswith(f"{', '.join(paths[:3])} and 1 more")
    assert "they are skipped meanwhile" in finding.advice


def test_strays_are_named_and_left_alone(finished: Lab) -> None:
    """Weights and workspaces that no row knows may be anybody's: only `gc --strays` deletes."""
    vault = finished.folder / "lab"
    (vault / "stray.safetensors").write_bytes(b"stray")
    (vault / "stages" / ("0" * 16)).mkdir(parents=True)
    (vault / "notes.txt").write_text("my own")
    (finding,) = complaints(finished)
    assert (finding.what, finding.level) == ("study lab: strays", Level.NOTICE)
    assert finding.found.startswith("2 files in its folder that no row points to: ")
    assert "stray.safetensors" in finding.found
    assert "`encore gc --strays --study lab` lists them" in finding.advice
    before = finished.outcome()
    finished.search()
    assert complaints(finished) == [finding]
    listed = clean_strays("lab", storage=finished.url)
    assert {file.path for file in listed.files} == {"stray.safetensors", f"stages/{'0' * 16}"}
    assert complaints(finished) == [finding]
    clean_strays("lab", storage=finished.url, delete=True)
    assert complaints(finished) == []
    assert (vault / "notes.txt").exists()
    assert finished.outcome() == before


def test_a_search_that_left_off_can_go_on(make_lab: MakeLab) -> None:
    """Its trial is unfinished, its workspace no orphan; once it has ended, nothing is to say."""
    lab = make_lab(schedule(stage(64, epochs=3)))
    lab.search(stop=lambda: len(lab.told) >= 2)
    (finding,) = complaints(lab)
    assert (finding.what, finding.level) == ("study lab: unfinished", Level.NOTICE)
    assert finding.found == "1 trial not finished"
    assert "same search command" in finding.advice
    lab.search()
    assert complaints(lab) == []


def test_a_search_that_is_running_is_not_unfinished(make_lab: MakeLab) -> None:
    """Its owner is named, as long as it gives a sign of life."""
    lab = make_lab(schedule(stage(64, epochs=3)))
    lab.search(stop=lambda: len(lab.told) >= 2)
    for age, unfinished in ((timedelta(0), False), (2 * STALE_AFTER, True)):
        with lab.reading() as (store, study, _):
            began = datetime.now(UTC) - age
            with mock.patch("storage.store.clock", lambda _, began=began: began):
                mine = Claim(study.id, "t")
                store.claim(mine, host="far", pid=7, command="search", stale_after=STALE_AFTER)
        found = {finding.what: finding.found for finding in doctor(storage=lab.url)}
        assert ("study lab: unfinished" in found) == unfinished
        assert ("study lab: owner" in found) != unfinished
        if not unfinished:
            assert found["study lab: owner"] == "process 7 on far is searching it"


def test_a_collapsed_stage_is_pointed_out(make_lab: MakeLab) -> None:
    """One far below the median of those at its place and size; others are not compared to it."""
    lab = make_lab(
        *(schedule(stage(128, lr, epochs=3)) for lr in (1e-3, 2e-3, 1e-7)),
        schedule(stage(32, 1e-7)),
    )
    lab.search()
    (finding,) = complaints(lab)
    assert (finding.what, finding.level) == ("study lab: collapsed", Level.NOTICE)
    assert finding.found.startswith("trial 2, stage 1 (128 px) reached ")
    assert "`encore show 2 --study lab`" in finding.advice


def test_a_loss_is_not_compared(make_lab: MakeLab) -> None:
    """Ten points are a measure for shares only."""
    script = [schedule(stage(128, lr, epochs=3)) for lr in (1e-3, 2e-3, 1e-7)]
    lab = make_lab(*script, metric="log_loss")
    lab.search()
    assert complaints(lab) == []


def test_each_study_is_looked_at(finished: Lab) -> None:
    """A second study in the same database has its own folder and findings."""
    store = Store(open_database(finished.url))
    store.create_study("second", finished.config.metric, "m", {}, {})
    store.close()
    folder = finished.folder / "second"
    folder.mkdir()
    (folder / f"{Kind.BEST}.safetensors").write_bytes(b"stray")
    (finding,) = complaints(finished)
    assert finding.what == "study second: strays"


def test_databases_that_cannot_be_looked_at_are_told(tmp_path: Path) -> None:
    """None at all is no fault; one that is broken is, and both are findings, not errors."""

    def database(path: Path) -> Finding:
        findings = doctor(storage=f"sqlite:///{path}")
        return next(finding for finding in findings if finding.what == "database")

    absent = database(tmp_path / "none" / "encore.db")
    assert (absent.level, absent.advice) == (Level.NOTICE, "`encore search` makes it")
    assert not (tmp_path / "none").exists()
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    assert database(tmp_path / "broken.db").level is Level.BAD
    (nonsense,) = [found for found in doctor(storage="nonsense") if found.what == "database"]
    assert (nonsense.level, nonsense.found[:28]) == (Level.BAD, "'nonsense' is not the URL of")


def test_little_room_on_the_disk_is_noticed(finished: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is full."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    (finding,) = complaints(finished)
    assert (finding.what, finding.level, finding.found) == ("free disk", Level.NOTICE, "1.0 GB")


def test_the_machine_is_looked_at(tmp_path: Path) -> None:
    """Python, the packages that training stands on, the device, memory and the disk."""
    findings = doctor(storage=f"sqlite:///{tmp_path / 'none.db'}")
    what = [finding.what for finding in findings]
    for name in ("python", "torch", "timm", "optuna", "device", "memory", "free disk"):
        assert name in what
    assert not [finding for finding in findings if finding.level is Level.BAD]


@pytest.mark.parametrize(("there", "said"), [(True, "side by side"), (False, "take turns")])
def test_a_gpu_s_machine_says_whether_workers_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, said: str
) -> None:
    """By the place through which NVIDIA's MPS is controlled; the GPU is made up."""
    if there:
        (tmp_path / "control").touch()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("trainers.device.choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    found = {each.what: each.found for each in module._machine()}
    assert said in found["sharing a GPU"]


def test_a_package_that_is_missing_on_the_machine_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named with the command that brings it."""
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    findings = doctor(storage=f"sqlite:///{tmp_path / 'none.db'}")
    (bad,) = [finding for finding in findings if finding.level is Level.BAD]
    assert (bad.what, bad.found) == ("no-such-package", "not installed")
    assert bad.advice.startswith("pip install ")


def test_photos_that_are_not_there_are_named(finished: Lab) -> None:
    """Where they were moved, the folder is named, and how to tell the study."""
    assert finished.manifest
    with finished.reading() as (store, study, _):
        record = store.manifest(study.manifest_digest)
        store.save_manifest(replace(record, root=str(finished.folder / "moved")))
    (found,) = complaints(finished)
    assert found.what == "study lab: photos"
    assert str(finished.folder / "moved") in found.found
    assert "--data" in found.advice
