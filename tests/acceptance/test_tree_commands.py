"""`tree`, `gc`, `plan`, `repeat` and budgets, by the command line on a real study."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli
from study.searching.ownership import Ownership
from tests.lab import Lab
from trainers.data.digits import digits_folder

SETTINGS = """
backbone = "test_resnet"
weights = "random"
portfolio = false
sampler = "random"
[space]
n_stages = [1, 2]
image_size = [16, 24]
batch_size = [256]
lrs = [0.01, 0.02]
"""
GRID = """
[[schedules]]
backbone = "test_resnet"
[[schedules.stages]]
image_size = 16
batch_size = 256
[[schedules.stages]]
image_size = 24
batch_size = 256
[[schedules]]
backbone = "test_resnet"
[[schedules.stages]]
image_size = 16
batch_size = 256
"""
Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs a command and gives what it printed, notices apart."""

    def run(*arguments: str, code: int = 0) -> str:
        ended = cli.run(arguments)
        said = capsys.readouterr()
        assert ended == code, said
        return said.out if code == 0 else said.err

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with settings of quick trainings."""
    (tmp_path / "study.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nodes(tree: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all stage runs of a printed tree."""
    return [found for node in tree for found in (node, *nodes(node["children"]))]


def test_tree_shows_what_is_shared(finished: Lab, run: Run) -> None:
    """The beginning of two trials is one node; what sharing saved is counted in pixels."""
    printed = run("tree", "--storage", finished.url)
    assert "trials 1,2" in printed
    assert "saved by sharing" in printed
    assert "failed" in printed
    shown = json.loads(run("tree", "--json", "--storage", finished.url))
    every = nodes(shown["roots"])
    assert len(every) == shown["stage_runs"]
    assert shown["pixels"] == sum(node["pixels"] for node in every)
    (shared,) = (node for node in every if node["trials"] == [1, 2])
    assert shared["pixels"] == 3 * 90 * 64**2
    assert shown["saved_pixels"] == 3 * shared["pixels"]  # and under two more seeds
    assert len(shared["children"]) == 2


def test_gc_lists_then_deletes(finished: Lab, run: Run) -> None:
    """A dry run changes nothing; deleted weights have a row, and `best` is as it was."""
    before = json.loads(run("best", "--json", "--storage", finished.url))
    listed = json.loads(run("gc", "--json", "--keep", "1", "--storage", finished.url))
    assert listed["files"]
    finished.check_order(over=False)
    with finished.reading() as (store, study, vault):
        assert {file["path"] for file in listed["files"]} < store.known_paths(study.id)
        tidied = {deletion.path for deletion in store.deletions(study.id)}
    assert "can go" in run("gc", "--keep", "1", "--storage", finished.url)
    assert "deleted" in run("gc", "--keep", "1", "--delete", "--storage", finished.url)
    with finished.reading() as (store, study, vault):
        gone = {file["path"] for file in listed["files"]}
        assert {deletion.path for deletion in store.deletions(study.id)} == gone | tidied
        assert not any(vault.path(path).exists() for path in gone)
    finished.check_order()
    assert json.loads(run("best", "--json", "--storage", finished.url))["file"] == before["file"]
    assert "0 weights files" in run("gc", "--keep", "1", "--storage", finished.url)


def test_gc_does_not_disturb_a_search(finished: Lab, run: Run) -> None:
    """During a search nothing can be deleted, but it can be listed."""
    with finished.reading() as (store, study, _), Ownership(store, study.id):
        said = run("gc", "--delete", "--keep", "1", "--storage", finished.url, code=1)
        assert "is being searched" in said
        run("gc", "--keep", "1", "--storage", finished.url)
    finished.check_order(over=False)


@pytest.mark.slow
def test_a_plan_spends_nothing_and_a_repeat_counts_all_seeds(folder: Path, run: Run) -> None:
    """Before a search there is no database; after it, epochs are known, and seeds are a total."""
    planned = json.loads(run("plan", "--trials", "3", "--json"))
    assert not (folder / "runs" / "encore.db").exists()
    assert {line["image_size"] for line in planned["stages"]} <= {16, 24}
    assert 0 < planned["seconds"] <= planned["alone_seconds"] * 1.001
    assert not any(line["measured"] for line in planned["stages"])
    bought = json.loads(run("plan", "--budget", "0.001s", "--json"))
    assert (bought["trials"], bought["budget"], planned["budget"]) == (1, 0.001, None)
    assert bought["device_seconds"] == bought["seconds"] == bought["wall_seconds"]
    assert "0.0 s of device time buy about 1 trial: " in run("plan", "--budget", "0.001s")
    halved = json.loads(run("plan", "--trials", "1", "--devices", "cpu:2", "--json"))
    assert halved["slots"] == 2
    assert halved["wall_seconds"] == halved["seconds"] / 2
    run("search", "--trials", "1")
    assert any(line["measured"] for line in json.loads(run("plan", "--json"))["stages"])
    for _ in range(2):  # the second one finds nothing to do
        run("repeat", "0", "--seeds", "2")
        listed = json.loads(run("ls", "--json"))["trials"]
        assert [(trial["seed"], trial["role"]) for trial in listed] == [
            (0, "explore"),
            (1, "repeat"),
        ]
    assert "no trial 7" in run("repeat", "7", code=2)


@pytest.mark.long
def test_a_grid_is_trained_as_it_stands(folder: Path, run: Run) -> None:
    """Each schedule of the file once, the shared beginning once; again there is nothing to do."""
    (folder / "grid.toml").write_text(GRID)
    for _ in range(2):
        run("search", "--strategy", "grid", "grid.toml")
        trials = json.loads(run("ls", "--json"))["trials"]
        assert [(trial["role"], trial["state"]) for trial in trials] == [("preset", "complete")] * 2
    shown = json.loads(run("tree", "--json"))
    assert [node["trials"] for node in nodes(shown["roots"])] == [[0, 1], [0]]


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_time_ends_a_search(capsys: pytest.CaptureFixture[str], run: Run) -> None:
    """A clock's or a device's. What is open stays open; with more of it, the same command goes on.

    How many trials have ended, and what they took, is said at the end.
    """
    began = time.monotonic()
    run("search", "--trials", "500", "--timeout", "1s")
    assert time.monotonic() - began < 60
    assert cli.run(["search", "--budget", "0.001s"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(
        r"the device time of --budget is used up: "
        r"\d+ trials? done, device time \d+\.\d s of 0\.0 s; "
        "to go on, run the same command with more",
        said,
    )
    listed = json.loads(run("ls", "--json"))["trials"]
    assert len(listed) < 500
    run("repeat", "0", "--seeds", "2")  # so many seeds are asked for, whatever is spent
    assert json.loads(run("ls", "--json"))["trials"][-1]["role"] == "repeat"
    run("search", "--trials", str(len(listed)))
    assert {trial["state"] for trial in json.loads(run("ls", "--json"))["trials"]} <= {
        "complete",
        "pruned",
    }


@pytest.mark.slow
def test_moved_photos_are_found_again(folder: Path, run: Run) -> None:
    """A search on the same photos elsewhere tells the study; then `explain` finds them."""
    digits_folder(folder).rename(folder / "old")
    search = ("search", "--study", "moved", "--trials", "1", "--allow-leaks", "--data")
    run(*search, "old")
    (folder / "old").rename(folder / "new")
    run("doctor", code=1)
    run(*search, "new")
    run("doctor")
    run("explain", "--top", "1", "--to", "explained")
    assert list((folder / "explained").glob("*.png"))
