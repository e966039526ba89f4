"""`ls` and `show` on a study that the coordinator has made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli
from storage.database import open_database
from storage.errors import StudyNotFound
from storage.records import Role, State
from storage.store import Store
from study.history.trials import list_trials, show_trial
from study.stage_text import schedule_text
from tests.lab import SECONDS, Lab, schedule, stage
from trainers.data.manifest import Manifest
from trainers.metrics import Metric

MakeLab = Callable[..., Lab]


def test_ls_lists_every_trial_in_the_order_they_began(finished: Lab) -> None:
    """State, score, planned epochs, schedule, and the best weights of those that have some."""
    listed = list_trials(storage=finished.url)
    assert (listed.study, listed.metric) == ("lab", Metric.ACCURACY)
    assert [line.number for line in listed.trials] == list(range(8))
    with finished.reading() as (store, study, vault):
        for line, trial in zip(listed.trials, store.trials(study.id), strict=True):
            assert (line.seed, line.role, line.state) == (trial.seed, trial.role, trial.state)
            assert (line.score, line.loss, line.seconds) == (trial.score, trial.loss, trial.seconds)
            assert line.epochs == trial.schedule.epochs
            assert line.schedule == schedule_text(trial.schedule)
            assert line.schedule_digest == trial.schedule_digest
            assert (line.file is None) == (trial.state is State.FAILED)
            assert line.file is None or vault.path(line.file).is_file()
    failed = listed.trials[3]
    assert (failed.state, failed.score, failed.file) == (State.FAILED, None, None)
    assert failed.failure is not None
    assert failed.failure.startswith("diverged: ")
    assert {line.role for line in listed.trials[4:]} == {Role.REPEAT}


def test_show_shows_a_trials_stages_with_epochs_and_files(finished: Lab) -> None:
    """A stage that another trial has trained says by whom; its epochs and files are there."""
    view = show_trial(2, storage=finished.url)
    assert (view.study, view.backbone, view.hidden) == ("lab", "net", (512,))
    assert view.folder == str(finished.folder / "lab")
    assert view.line == list_trials(storage=finished.url).trials[2]
    shared, own = view.stages
    assert (shared.position, shared.state, shared.trained_by) == (0, State.COMPLETE, 1)
    assert (own.position, own.state, own.trained_by) == (1, State.COMPLETE, 2)
    assert [epoch.epoch for epoch in (*shared.epochs, *own.epochs)] == [1, 2, 3, 1, 2]
    assert [file.kind for file in shared.files] == ["last"]  # no trial is best there
    assert [file.path for file in own.files] == [view.line.file]
    assert (shared.settings["image_size"], own.settings["image_size"]) == (64, 96)
    assert view.line.seconds == 5 * SECONDS
    assert view.finished_at is not None
    assert view.finished_at >= view.started_at


def test_show_takes_failed_and_unfinished_trials(make_lab: MakeLab, photos: Manifest) -> None:
    """Whatever there is of them is shown."""
    script = (schedule(stage(64, 50.0)), schedule(stage(64, epochs=2), stage(96)))
    lab = make_lab(*script, manifest=photos)
    lab.search(stop=lambda: len(lab.told) >= 4)
    failed, running = (show_trial(number, storage=lab.url) for number in (0, 1))
    assert failed.line.failure is not None
    assert [(s.state, s.epochs, s.files) for s in failed.stages] == [(State.FAILED, (), ())]
    assert (running.line.state, running.line.score, running.finished_at) == ("waiting", None, None)
    assert [(s.state, len(s.epochs)) for s in running.stages] == [("waiting", 1)]


def test_a_trial_that_is_not_there_is_told(finished: Lab) -> None:
    """With the study, and how to find the others."""
    with pytest.raises(
        LookupError, match=r"^study 'lab' has no trial 8; its 8 trials are listed by"
    ):
        show_trial(8, storage=finished.url)
    with pytest.raises(LookupError, match="has no trial -1"):
        show_trial(-1, storage=finished.url)


def test_the_study_used_last_is_listed_unless_another_is_named(finished: Lab) -> None:
    """An empty study is listed as such; an unknown one is told."""
    store = Store(open_database(finished.url))
    store.create_study("newer", Metric.F1, finished.digest, {}, {})
    store.close()
    assert list_trials(storage=finished.url).trials == ()
    assert len(list_trials("lab", storage=finished.url).trials) == 8
    assert show_trial(0, "lab", storage=finished.url).study == "lab"
    with pytest.raises(StudyNotFound, match="there are newer, lab"):
        list_trials("none", storage=finished.url)


def test_a_study_is_found_by_the_path_of_its_data(
    finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the path is written; of several studies on the data, the one used last."""
    monkeypatch.chdir(tmp_path)
    store = Store(open_database(finished.url))
    for name in ("older", "latest"):
        config = {"data": {"source": "photos"}}
        store.create_study(name, Metric.F1, finished.digest, config, {})
    store.close()
    for written in ("photos", "./photos/", str(tmp_path / "photos")):
        assert list_trials(written, storage=finished.url).study == "latest"
    with pytest.raises(StudyNotFound, match="no study 'elsewhere/photos'"):
        list_trials("elsewhere/photos", storage=finished.url)


@pytest.mark.parametrize("command", [["ls"], ["show", "2"], ["show", "3"], ["best"]])
def test_json_is_one_document_and_nothing_else(
    finished: Lab, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """All that a person sees is there for a program, on stdout alone."""
    assert cli.run([*command, "--json", "--storage", finished.url]) == 0
    said = capsys.readouterr()
    document: dict[str, Any] = json.loads(said.out)
    assert document["study"] == "lab"
    assert said.err == ""


@pytest.mark.parametrize(
    "command", [["ls"], ["show", "2"], ["show", "3"], ["best", "--details"], ["doctor"]]
)
def test_every_page_can_be_printed(
    finished: Lab, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """On real rows, with class names that would be markup."""
    assert cli.run([*command, "--storage", finished.url]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "lab" in said.out
    if command[0] == "best":
        assert "[bold]roses" in said.out
        assert ":fire:" in said.out
