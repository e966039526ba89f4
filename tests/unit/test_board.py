"""What the dashboard shows beside its own: notes that are harmless, pictures, a guard."""

import json
import subprocess
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from storage.records import Trial
from study.dashboard import artifacts
from study.dashboard.artifacts import Exhibit, Exhibits
from study.dashboard.guard import Guard
from study.dashboard.notes import TIED, Predicted, note_on, plain, winner_note
from study.dashboard.parameters import lay_over, parameters_of
from study.dashboard.pictures import CLASSES, draw_confusion, draw_curves, draw_words
from study.selection.best import best
from study.selection.result import RunnerUp
from tests.lab import Lab, schedule, stage
from trainers.schedule import Schedule, Train

HOSTILE = ("<script>alert(1)</script>", "a|b", "`x` [y](javascript:z)\n# big")


def trials(lab: Lab) -> list[Trial]:
    """Return a study's trials."""
    with lab.reading() as (store, study, _):
        return store.trials(study.id)


def predicted(names: tuple[str, ...] = HOSTILE) -> Predicted:
    """Return predictions with a mistake in each class."""
    labels = np.repeat(np.arange(len(names)), 4)
    answers = labels.copy()
    answers[::4] = (labels[::4] + 1) % len(names)
    return Predicted(names, labels, answers)


def test_a_note_tells_the_story(finished: Lab) -> None:
    """Score, schedule, errors, matrix, weights and the way on are in it."""
    trial = max(trials(finished), key=lambda each: each.score or 0)
    note = note_on(trial, finished.config.metric, "lab", predicted(("a", "b")), "/artifacts/1/2/3")
    assert note.startswith(f"**accuracy {100 * (trial.score or 0):.1f} %**")
    assert f"seed {trial.seed}" in note
    assert "2 errors on 8 validation photos" in note
    assert "| a | 3 | 1 |\n| b | 1 | 3 |" in note
    assert "[The weights](/artifacts/1/2/3)" in note
    assert note.endswith(f"`encore show {trial.number} --study lab`")


def test_the_study_s_note_tells_the_winner_and_its_estimate(finished: Lab) -> None:
    """Which trial, what to expect on new photos with its interval, and the command that says more.

    It is found once for as long as no trial is begun or ends.
    """
    chosen = best(storage=finished.url)
    assert chosen.bias_corrected is not None
    shown = Exhibits(finished.url)
    try:
        [note] = shown.winners().values()
        assert note == winner_note(chosen)
        assert f"**Winner: trial {chosen.trial}, seed {chosen.seed}**" in note
        assert plain(chosen.phrase(chosen.bias_corrected.estimate)) in note
        assert plain(chosen.interval) in note
        assert note.endswith("`encore best --study lab`")
        tied = any(other.score == chosen.score for other in chosen.runners_up)
        assert (TIED in note) == tied
        other = replace(chosen, runners_up=(RunnerUp(7, 0, chosen.score, 0.5, "w"),))
        assert TIED in winner_note(other)
        assert TIED not in winner_note(replace(other, score=2.0, bias_corrected=None))
        assert max(map(len, note.split())) < 40  # so that a phone shows it whole
        shown._winner = None  # type: ignore[method-assign,assignment] # not asked again
        assert shown.winners() == {"lab": note}
    finally:
        shown.close()


def test_trials_without_parameters_show_their_schedules() -> None:
    """A probe and a preset get the names of the space, and each name one distribution for all."""
    given = stage(64, 1e-3)
    suggested = create_trial(
        state=TrialState.COMPLETE,
        value=0.9,
        params={"n_stages": 1, "s0_lrs": 1e-3, "s0_crop": "random"},
        distributions={
            "n_stages": IntDistribution(1, 2),
            "s0_lrs": FloatDistribution(1e-4, 1e-3, log=True),
            "s0_crop": CategoricalDistribution(["random", "no"]),
        },
    )
    probe = create_trial(state=TrialState.COMPLETE, value=0.5)
    preset = create_trial(state=TrialState.COMPLETE, value=0.8)
    unknown = create_trial(state=TrialState.FAIL)
    trials = [suggested, probe, preset, unknown]
    for number, trial in enumerate(trials):
        trial.number = number
    first = stage(64, train=Train.PROBE)
    probed = Schedule(backbone="net", hidden=(), stages=(first,), weights="random")
    known = {0: schedule(given), 1: probed}
    known[2] = schedule(given, stage(96, 1e-2), stage(128, 3e-3))
    lay_over(trials, known)
    assert suggested.params == {"n_stages": 1, "s0_lrs": 1e-3, "s0_crop": "random"}
    assert probe.params["s0_train"] == "probe"
    assert probe.params["s0_image_size"] == 64
    assert "s0_lrs" not in probe.params
    assert (preset.params["n_stages"], preset.params["s2_image_size"]) == (3, 128)
    assert preset.params["s1_lrs"] == 1e-2
    assert unknown.params == {}
    spans: dict[str, Any] = {}
    for trial in trials:
        for name, span in trial.distributions.items():
            assert spans.setdefault(name, span) == span
            assert span._contains(span.to_internal_repr(trial.params[name]))
    assert spans["n_stages"] == IntDistribution(1, 3)
    assert spans["s0_crop"] == CategoricalDistribution(["random", "no"])


def test_a_value_of_another_kind_is_left_out() -> None:
    """Where a space has numbers and a schedule a list, no distribution could hold both."""
    found = parameters_of(schedule(stage(64, 1e-3, dropout=(0.25, 0.5))))
    assert found["s0_dropout"] == "[0.25, 0.5]"
    known = create_trial(
        state=TrialState.RUNNING,
        params={"s0_dropout": 0.1},
        distributions={"s0_dropout": FloatDistribution(0.1, 0.5)},
    )
    other = create_trial(state=TrialState.RUNNING)
    other.number = 1
    lay_over([known, other], {1: schedule(stage(64, 1e-3, dropout=(0.25, 0.5)))})
    assert "s0_dropout" not in other.params
    assert other.params["s0_image_size"] == 64


def test_names_are_only_text(finished: Lab) -> None:
    """No class name becomes HTML, a link, code or a column of the table."""
    trial = next(each for each in trials(finished) if each.score)
    note = note_on(trial, finished.config.metric, "lab", predicted(), None)
    assert "<" not in note
    table = [line for line in note.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert [line.replace("\\|", "").count("|") for line in table] == [5] * 5
    assert "\\`x\\` \\[y\\]\\(javascript\\:z\\)?\\# big" in note


def test_what_failed_says_why(finished: Lab) -> None:
    """A failed trial's note has the reason and no matrix."""
    trial = next(each for each in trials(finished) if each.failure)
    note = note_on(trial, finished.config.metric, "lab", None, None)
    assert plain(trial.failure or "") in note
    assert "|" not in note


def test_many_classes_are_listed_by_their_worst_confusions(finished: Lab) -> None:
    """Beyond ten classes the note names pairs, the most frequent first."""
    names = tuple(f"class{n}" for n in range(12))
    labels = np.repeat(np.arange(12), 4)
    answers = labels.copy()
    answers[:3], answers[4] = 5, 7
    trial = next(each for each in trials(finished) if each.score)
    note = note_on(trial, finished.config.metric, "lab", Predicted(names, labels, answers), None)
    assert "- 3 class0 misclassified as class5\n- 1 class1 misclassified as class7" in note
    assert "| true" not in note


@pytest.mark.parametrize("count", [2, 3, CLASSES + 30])
def test_a_confusion_matrix_is_drawn(count: int) -> None:
    """It is a PNG of a size that a page can show, whatever the classes are called."""
    names = tuple(f"{HOSTILE[n % 3]}$\\frac{n}$" for n in range(count))
    picture = Image.open(BytesIO(draw_confusion(predicted(names), "$title$")))
    assert picture.format == "PNG"
    assert 300 < picture.width < 1100
    assert len(np.unique(np.asarray(picture.convert("L")))) > 10


@pytest.mark.long
def test_curves_are_drawn(finished: Lab) -> None:
    """Even of an epoch without a finite loss there is a picture."""
    with finished.reading() as (store, study, _):
        for trial in store.trials(study.id):
            drawn = draw_curves(store.epochs_of_trial(trial.id), study.metric, "trial")
            assert Image.open(BytesIO(drawn)).width > 500
    assert Image.open(BytesIO(draw_words("no $heat maps\n: <b>"))).width > 500


def test_exhibits_are_those_of_what_is_there(finished: Lab) -> None:
    """Whatever has ended has pictures; weights and heat maps only where a file is kept."""
    artifacts = Exhibits(finished.url)
    try:
        study = artifacts.known("lab")
        assert study is not None
        assert artifacts.known("somebody else's") is None
        found = artifacts.of(study)
        with finished.reading() as (store, record, vault):
            for trial in store.trials(record.id):
                kinds = set(found[trial.number].values())
                kept = {(c.stage_run_id, c.epoch) for c in store.checkpoints(record.id)}
                has_file = (trial.best_stage_run, trial.best_epoch) in kept
                assert (Exhibit.WEIGHTS in kinds) == (Exhibit.HEAT in kinds) == has_file
            names = {kind: name for name, kind in found[1].items()}
            shown = artifacts.show(names[Exhibit.WEIGHTS])
            assert shown is not None
            assert not isinstance(shown, bytes)
            assert shown.parent == vault.root
        again = Exhibits(finished.url)
        assert again.of(study) == found  # an address that was noted stays good
        again.close()
        assert artifacts.show("0" * 8) is None
    finally:
        artifacts.close()


Answer = tuple[str, str]


def ask(method: str, path: str, host: str = "127.0.0.1:8080", origin: str | None = None) -> Answer:
    """Send a request through the guard; return the status and the text."""
    said: list[str] = []

    def application(_: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"let through"]

    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": host}
    if origin is not None:
        environ["HTTP_ORIGIN"] = origin
    guard = Guard(application, ("127.0.0.1:8080", "localhost:8080"))
    body = b"".join(guard(environ, lambda status, _: said.append(status)))
    return said[0], body.decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/studies/1"),
        ("HEAD", "/dashboard"),
        ("PUT", "/api/studies/1/2/note"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/api/artifacts/1/2"),
        ("DELETE", "/api/artifacts/1/2/abc"),
    ],
)
def test_reading_noting_and_uploading_pass(method: str, path: str) -> None:
    """What a person does there with no harm is let through, from its own pages."""
    for origin in (None, "http://127.0.0.1:8080", "http://localhost:8080"):
        assert ask(method, path, origin=origin) == ("200 OK", "let through")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("POST", "/api/trials/3/tell"),
        ("PUT", "/api/trials/3/user-attrs"),
    ],
)
def test_nothing_that_a_search_stands_on_is_changed(method: str, path: str) -> None:
    """No click ends, deletes or renames what belongs to a search."""
    status, text = ask(method, path)
    assert status == "403 Forbidden"
    assert "Encore keeps its studies itself" in json.loads(text)["reason"]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example:8080", None),
        ("127.0.0.1:9999", None),
        ("", None),
        ("127.0.0.1:8080", "http://evil.example"),
        ("127.0.0.1:8080", "null"),
    ],
)
def test_pages_of_others_are_refused(host: str, origin: str | None) -> None:
    """Neither a rebound name nor another page's script gets anything, not even to read."""
    assert ask("GET", "/api/studies", host, origin)[0] == "403 Forbidden"


def test_a_command_s_words_are_in_no_list_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of a database may hold a password: the command gets its words by its input."""
    asked: list[tuple[list[str], str]] = []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        asked.append((command, how["input"]))
        return subprocess.CompletedProcess(command, 1, "", "no\nsuch study\n")

    monkeypatch.setattr(artifacts.subprocess, "run", run)
    words = ["explain", "--storage", "postgresql://me:hunter2@host/db"]
    assert artifacts._run_aside(words) == "such study"
    ((command, given),) = asked
    assert "hunter2" not in " ".join(command)
    assert json.loads(given) == words


@pytest.mark.parametrize(
    ("path", "inert"),
    [("/artifacts/1/2/abc", True), ("/artifacts/1/abc", True), ("/dashboard", False)],
)
def test_what_people_upload_runs_no_script_here(path: str, *, inert: bool) -> None:
    """An SVG or HTML file is served in a sandbox and under its own kind; our pages are not."""
    sent: dict[str, str] = {}

    def application(_: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [("Content-Type", "image/svg+xml")])
        return [b"<svg onload='alert(1)'/>"]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_HOST": "localhost:8080"}
    guard = Guard(application, ("localhost:8080",))
    assert list(guard(environ, lambda _, headers: sent.update(headers)))
    assert sent["Content-Type"] == "image/svg+xml"
    assert (sent.get("X-Content-Type-Options") == "nosniff") == inert
    policy = sent.get("Content-Security-Policy", "")
    assert ("sandbox;" in policy and "default-src 'none'" in policy) == inert
    assert "allow-scripts" not in policy
