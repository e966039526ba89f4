"""What is printed for a person: complete, literal, and within the terminal's width."""

import io
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from storage.records import Checkpoint, EpochRecord, Kind, Role, State
from study.commands import console as consoles
from study.history.caches import CachedPhotos
from study.history.doctor import Finding, Level
from study.history.trials import StageView, TrialLine, TrialList, TrialView
from study.selection.leaks import Judged
from study.stage_text import stages_text
from study.views.history import print_cached, print_doctor, print_trial, print_trials
from tests.lab import schedule, stage
from trainers.metrics import Metric

HOSTILE = r"[red]a[/] [/] [bold :fire: \[b] [link=http://x]z"
"""Closes a tag that is not open, opens some, and asks for an emoji."""

JUDGED = Judged(309, None)
OF = schedule(stage(64, dropout=(0.25, 0.5)), stage(96))
NOW = datetime.now(UTC)


def console(width: int = 200, **options: Any) -> tuple[Console, io.StringIO]:
    """Make the console of the command line, into a string."""
    text = io.StringIO()
    return Console(file=text, width=width, emoji=False, **options), text


def test_the_command_lines_own_consoles_take_no_emoji_codes() -> None:
    """A class may be called :fire:, and then it is printed so."""
    for own in (consoles.out, consoles.err):
        assert str(own.render_str(":fire:")) == ":fire:"


def line(**others: Any) -> TrialLine:
    """Make a line of `ls`."""
    given: dict[str, Any] = {
        "number": 4,
        "seed": 3,
        "role": Role.REPEAT,
        "state": State.COMPLETE,
        "score": 0.5,
        "loss": 0.6,
        "epochs": 2,
        "seconds": 3.0,
        "schedule": "64 px",
        "schedule_digest": "d" * 64,
        "file": None,
        "failure": None,
    }
    return TrialLine(**(given | others))


def test_ls_drops_columns_where_there_is_no_room() -> None:
    """Role and loss in a narrow terminal; and it says where all scores flatter."""
    for width, shown in ((80, False), (160, True)):
        out, text = console(width)
        print_trials(out, TrialList("s", Metric.F1, (line(),), Judged(9, "9 photos leak")))
        head, *_, last = text.getvalue().splitlines()[1:]
        assert ("loss" in head.split(), "role" in head.split()) == (shown, shown)
        assert last == "9 photos leak"


def test_ls_is_printed_literally() -> None:
    """A failed trial shows its reason in place of its schedule; a running one has no score yet."""
    out, text = console()
    failed = line(state=State.FAILED, failure=HOSTILE, score=None, loss=None)
    running = line(number=5, state=State.RUNNING, score=None, loss=None)
    print_trials(out, TrialList(HOSTILE, Metric.F1, (line(), failed, running), JUDGED))
    said = text.getvalue()
    assert said.startswith(f"study {HOSTILE}")
    assert HOSTILE in said.splitlines()[3]
    assert said.splitlines()[4].split()[:7] == ["5", "3", "repeat", "running", "-", "-", "2"]


def test_ls_has_a_line_a_trial_in_a_terminal_of_80_columns() -> None:
    """A schedule ends where the line ends; why a trial failed is said whole."""
    out, text = console(80)
    long = line(schedule="288 px, " * 40)
    print_trials(out, TrialList("s", Metric.F1, (long, long), JUDGED))
    _, _, *rows = text.getvalue().splitlines()
    assert len(rows) == 2
    assert all(len(row) <= 80 for row in rows)
    assert all(row.rstrip().endswith("…") for row in rows)
    out, text = console(80)
    failed = line(failure="word " * 40 + "end", state=State.FAILED)
    print_trials(out, TrialList("s", Metric.F1, (failed,), JUDGED))
    assert text.getvalue().rstrip().endswith("end")


def view(**others: Any) -> TrialView:
    """Make what `show` shows."""
    epoch = EpochRecord(
        stage_run_id=1,
        stage=0,
        epoch=1,
        cycle=1,
        lrs=(1e-4, 2e-4, 1e-3),
        train_loss=float("nan"),
        valid_loss=0.6,
        accuracy=0.5,
        balanced_accuracy=0.5,
        f1=0.5,
        seconds=1.0,
        images_per_second=99.0,
    )
    file = Checkpoint(
        stage_run_id=1,
        kind=Kind.BEST,
        path=HOSTILE,
        sha256="f" * 64,
        size=2_500_000,
        epoch=1,
        score=0.5,
    )
    shown = StageView(
        position=0,
        key="k",
        state=State.COMPLETE,
        trained_by=2,
        taken_from=None,
        settings=asdict(OF.stages[0]),
        text=stages_text(OF.stages),
        epochs=(epoch,),
        files=(file,),
    )
    given: dict[str, Any] = {
        "study": HOSTILE,
        "metric": Metric.LOG_LOSS,
        "line": line(failure=HOSTILE),
        "backbone": "net",
        "hidden": (512,),
        "levels": 3,
        "started_at": NOW,
        "finished_at": None,
        "folder": HOSTILE,
        "stages": (shown,),
        "judged": JUDGED,
    }
    return TrialView(**(given | others))


def test_show_is_printed_literally() -> None:
    """Curves (where they are numbers), stages with the trial that trained them, files."""
    out, text = console()
    print_trial(out, view())
    said = text.getvalue()
    assert f"of study {HOSTILE}: complete, repeat, seed 3, log_loss 0.5000" in said
    assert f"best: {HOSTILE}/{HOSTILE} (2.5 MB, sha256 ffffffffffff)" in said
    assert "stage 1: complete, trained by trial 2" in said
    assert "512 hidden units that sees 3 inner levels, schedule dddddddddddd" in said
    assert "accuracy in % 50" in said  # one epoch is a number, no curve
    assert "1 epochs" not in said
    assert "dropout 0.25/0.5" in said


def test_a_trial_that_has_only_begun_can_be_shown() -> None:
    """No stage, no epoch: no curves."""
    out, text = console()
    print_trial(out, view(stages=()))
    assert "over" not in text.getvalue().splitlines()[-1]


def speeds(*measured: tuple[float, float | None, int | None]) -> list[str]:
    """Return the lines on speed of a trial whose epochs have run so."""
    (shown,) = view().stages
    numbers = ("images_per_second", "data_wait", "micro_batch")
    epochs = [
        replace(shown.epochs[0], **dict(zip(numbers, one, strict=True)))  # type: ignore[arg-type]
        for one in measured
    ]
    out, text = console()
    print_trial(out, view(stages=(replace(shown, epochs=tuple(epochs)),)))
    return [line for line in text.getvalue().splitlines() if "images/s" in line]


def test_show_tells_the_least_calibrated_loss_of_a_stage() -> None:
    """Of the epochs that have one; of a stage that an earlier Encore trained nothing is said."""
    (shown,) = view().stages
    for losses, line in (
        ((0.51, 0.42345, None), ["  lowest validation loss after calibration 0.4234"]),
        ((None,), []),
    ):
        epochs = tuple(replace(shown.epochs[0], calibrated_loss=loss) for loss in losses)
        out, text = console()
        print_trial(out, view(stages=(replace(shown, epochs=epochs),)))
        assert [found for found in text.getvalue().splitlines() if "calibration" in found] == line


def test_show_says_how_fast_a_stage_was_and_what_held_it_up() -> None:
    """The middle of its epochs; what was not measured is not told, nor made up."""
    three = ((90.0, 0.25, None), (110.0, 0.031, None), (300.0, 0.01, None))
    assert speeds(*three) == ["  110 images/s, 3.1 % of the time waiting for data"]
    assert speeds((99.6, None, None)) == ["  100 images/s"]
    assert speeds((80, None, None), (80, 0.0, None)) == [
        "  80 images/s, 0.0 % of the time waiting for data"
    ]
    (short,) = speeds((80, 0.5, None), (70, 0.5, 16), (60, 0.5, 8))
    assert short.startswith("  70 images/s, 50.0 % of the time waiting for data; memory was short")
    assert short.endswith(": batches were split into parts of 8")
    assert speeds() == []


@pytest.mark.parametrize("width", [60, 200])
def test_decoded_photos_are_listed_with_what_they_take(width: int) -> None:
    """One line a file, literal, its trouble below; then the sum, and how to be rid of them."""
    whole = CachedPhotos(f"runs/{HOSTILE}/valid-64-cut.pixels", 12_340_000, "")
    broken = CachedPhotos("runs/.cache/x/train-64.pixels", 160_000, f"photo 0 {HOSTILE}")

    def printed(*files: CachedPhotos, deleted: bool = False) -> list[str]:
        out, text = console(width)
        print_cached(out, files, deleted=deleted)
        return text.getvalue().splitlines()

    assert printed() == printed(deleted=True) == ["no photos are cached"]
    listed = [
        f"      12.3 MB  {whole.path}",
        f"       0.2 MB  {broken.path}",
        f"   -> not whole: photo 0 {HOSTILE}; the next search decodes them again",
    ]
    assert printed(whole, broken) == [
        *listed, "12.5 MB of cached photos; --delete deletes them"
    ]  # fmt: skip
    assert printed(whole, deleted=True) == [listed[0], "12.3 MB of cached photos deleted"]


def test_doctor_prints_findings_with_their_advice() -> None:
    """One line each, marked, literal; advice below. A narrower terminal breaks between words."""
    out, text = console()
    findings = [
        Finding(f"study {HOSTILE}", Level.GOOD, HOSTILE),
        Finding("files", Level.BAD, "x" * 100, HOSTILE),
        Finding("disk", Level.NOTICE, "low"),
    ]
    print_doctor(out, findings)
    assert text.getvalue().splitlines() == [
        f"ok study {HOSTILE}: {HOSTILE}",
        f"XX files: {'x' * 100}",
        f"   -> {HOSTILE}",
        "!! disk: low",
    ]
    out, text = console(20)
    print_doctor(out, [Finding("disk", Level.NOTICE, "each stage keeps its weights")])
    assert text.getvalue().splitlines() == ["!! disk: each stage ", "keeps its weights"]


@pytest.mark.parametrize("width", [20, 60])
def test_narrow_terminals_get_everything_too(width: int) -> None:
    """Tables and texts shrink or wrap, but nothing fails."""
    out, text = console(width)
    print_trial(out, view())
    assert "trained by trial 2" in " ".join(text.getvalue().split())
    out, text = console(width)
    two = (line(), replace(line(), number=12345))
    print_trials(out, TrialList("s", Metric.F1, two, JUDGED))
    assert max(map(len, text.getvalue().splitlines())) <= width
