"""A search while it runs: bars on a terminal, a line a trial without one."""

import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from storage.records import Role, State, Trial
from study.budget import DeviceTime
from study.events import EpochFinished, Notice, SearchStarted, StageStarted, TrialFinished, Working
from study.views.progress import SearchView
from tests.lab import schedule, stage
from trainers.data.sources import LeftOut
from trainers.metrics import EpochMetrics, Evaluation, Metric
from trainers.schedule import Stage, Train

HOSTILE = r"[red]a[/] [/] [bold :fire: \[b] [link=http://x]z"
"""Closes a tag that is not open, opens some, and asks for an emoji."""

SPENT = DeviceTime(90.0)

OF = schedule(stage(64, dropout=(0.25, 0.5)), stage(96))


def console(width: int = 200, **options: Any) -> tuple[Console, io.StringIO]:
    """Make the console of the command line, into a string."""
    text = io.StringIO()
    return Console(file=text, width=width, emoji=False, **options), text


def trial(state: State = State.COMPLETE, **others: Any) -> Trial:
    """Make a trial that has ended."""
    given: dict[str, Any] = {
        "id": 1,
        "study_id": 1,
        "number": 4,
        "schedule_json": OF.to_json(),
        "seed": 3,
        "role": Role.EXPLORE,
        "state": state,
        "score": 0.9876,
        "loss": 0.1,
        "seconds": 12.34,
        "started_at": datetime.now(UTC),
    }
    return Trial(**(given | others))


def epoch(number: int = 1) -> EpochMetrics:
    """Make an epoch's metrics."""
    evaluation = Evaluation(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]], np.float32))
    return EpochMetrics.of(
        evaluation,
        stage=0,
        epoch=number,
        cycle=1,
        lrs=(1e-4, 2e-4, 1e-3),
        train_loss=0.5,
        valid_loss=0.6,
        seconds=1.0,
        images_per_second=99.0,
    )


def started(**others: Any) -> SearchStarted:
    """Tell the beginning of a search."""
    left_out = (LeftOut(HOSTILE + "\x1b", HOSTILE),) * 22
    given: dict[str, Any] = {"study": "s", "metric": Metric.ACCURACY, "data": HOSTILE}
    given |= {"done": 1, "to_go": 2, "best_score": None, "left_out": left_out}
    given |= {"device_time": DeviceTime(0.0)}
    return SearchStarted(**(given | others))


def test_a_probe_is_the_number_to_beat_as_soon_as_it_is_there() -> None:
    """Each probe is one line, before its trial ends, whoever shares it; a worse is not to beat."""
    shown, text = console()
    with SearchView(shown) as view:
        view(started())
        for number, size in ((0, 160), (1, 224), (2, 224)):
            of = replace(
                OF, hidden=(), stages=(Stage(image_size=size, train=Train.PROBE), OF.stages[1])
            )
            view(StageStarted(number, of, 0, 0, 0))
            view(EpochFinished(number, 1, epoch(), SPENT))
            view(StageStarted(number, of, 0, 1, 1))
            view(EpochFinished(number, 2, epoch(), SPENT))
    lines = text.getvalue().splitlines()
    assert lines[-2:] == [
        "probe at 160 px: 1 error of 2 (50.0 %): the number to beat",
        "probe at 224 px: 1 error of 2 (50.0 %)",
    ]


def test_without_a_terminal_each_trial_is_one_line() -> None:
    """Epochs and stages are not told; the line has what the article's had."""
    out, text = console(60)
    with SearchView(out) as view:
        view(Working("reading photos", 1, 2))
        view(started(left_out=()))
        for number in (4, 5, 6):
            view(StageStarted(number, OF, 3, 0, 0))
            view(EpochFinished(number, 1, epoch(), SPENT))
            view(TrialFinished(trial(number=number), 2, f"acc_{number}.safetensors", 0))
    lines = text.getvalue().splitlines()
    assert len(lines) == 2 + 3
    assert lines[2] == (
        "trial 4 seed 3: 2 epochs, accuracy 98.8, 12.3 s, 64>96 px, epochs 1, lr 0.001, bs 8, "
        "random crop, dropout 0.25/0.5>0, saved as acc_4.safetensors"
    )
    assert "\x1b" not in text.getvalue()


def test_failed_and_pruned_trials_say_so_in_one_line() -> None:
    """Also where the reason or the file's name is markup."""
    out, text = console(60)
    with SearchView(out) as view:
        view(started(left_out=()))
        view(TrialFinished(trial(State.FAILED, failure=f"bug: A: {HOSTILE}"), 1, None, 1))
        view(TrialFinished(trial(State.PRUNED), 1, "w.safetensors", 0))
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[2] == f"trial 4 seed 3: failed, bug: A: {HOSTILE}"
    assert lines[3].startswith("trial 4 seed 3: pruned, 1 epochs, accuracy 98.8, 12.3 s, 64>96")
    assert lines[3].endswith(", saved as w.safetensors")


def test_what_is_left_out_is_listed_literally_and_not_for_ever() -> None:
    """Twenty names, control characters made visible, then a count."""
    out, text = console(60)
    with SearchView(out) as view:
        view(started())
    said = text.getvalue()
    assert HOSTILE in said.splitlines()[0]
    assert said.count("left out '") == 20
    assert "and 2 more left out" in said
    assert "\\x1b" in said
    assert "\x1b" not in said


def test_a_notice_is_printed_literally_and_work_is_not_without_a_terminal() -> None:
    """The sentence is one line however long; counts belong to a bar, of which there is none."""
    out, text = console(60)
    with SearchView(out) as view:
        for done in range(3):
            view(Working("decoding photos", done, 3))
        view(Notice(f"{HOSTILE} cannot be kept: {'x' * 100}"))
    assert text.getvalue().splitlines() == [f"{HOSTILE} cannot be kept: {'x' * 100}"]


def test_work_before_the_first_trial_has_a_bar_that_the_trial_takes_over() -> None:
    """Each work is shown with its counts, a notice above the bars; a trial's epochs come after."""
    out, text = console(160, force_terminal=True, color_system=None)

    def shown() -> str:
        view._bars.refresh()
        said = text.getvalue()
        text.seek(0)
        text.truncate()
        return said

    with SearchView(out) as view:
        view(Working("reading photos", 20, 20))
        assert re.search(r"reading photos .* 20/20 ", shown())
        view(Working("decoding photos", 7, 10))
        said = shown()
        assert re.search(r"decoding photos .* 7/10 ", said)
        assert "reading photos" not in said
        view(Notice(f"{HOSTILE} is not to be trusted"))
        assert f"{HOSTILE} is not to be trusted" in shown()
        view(StageStarted(4, OF, 3, 0, 0))
        said = shown()
        assert re.search(r"trial 4 seed 3 .* 0/2 ", said)
        assert "decoding photos" not in said


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.LOG_LOSS])
def test_on_a_terminal_bars_show_the_best_so_far(metric: Metric) -> None:
    """The best is the metric's idea of it; failed trials and missing scores do not stumble."""
    out, text = console(160, force_terminal=True)
    with SearchView(out) as view:
        view(Working("reading photos", 5, 10))
        view(started(metric=metric, left_out=()))
        view(StageStarted(0, OF, 3, 1, 1))
        view(EpochFinished(0, 2, epoch(), SPENT))
        for number, score in enumerate((0.5, 0.25, None, 0.75)):
            state = State.FAILED if score is None else State.COMPLETE
            view(TrialFinished(trial(state, number=number, score=score), 2, None, 3 - number))
        assert view._best == (0.75 if metric.higher_is_better else 0.25)
    assert "trial 0 seed 3" in text.getvalue()


def test_device_time_that_is_the_budget_is_the_bar_and_stands_in_each_line() -> None:
    """How much of how much after every epoch, and how many trials; their number ends nothing."""
    out, text = console(160, force_terminal=True, color_system=None)
    with SearchView(out) as view:
        view(started(left_out=(), to_go=None, device_time=DeviceTime(60.0, 1200.0)))
        assert "1 trial done, device time 1.0 min of 20.0 min" in text.getvalue()
        view(StageStarted(4, OF, 3, 0, 0))
        for seconds in (90.0, 1500.0):
            view(EpochFinished(4, 1, epoch(), DeviceTime(seconds, 1200.0)))
            view._bars.refresh()
        view(TrialFinished(trial(), 2, "w.safetensors", None))
        view._bars.refresh()
    said = " ".join(text.getvalue().split())
    assert "1, 1.5 min of 20.0 min best -" in said
    assert "1, 25.0 min of 20.0 min best -" in said
    assert "saved as w.safetensors (2 trials, 25.0 min of 20.0 min)" in said
    assert "2, 25.0 min of 20.0 min best 98.8" in said


def test_device_time_beside_a_number_of_trials_is_a_note_of_their_bar() -> None:
    """Both are said, as either may end the search; without a budget the time is not of anything."""
    out, text = console(160, force_terminal=True, color_system=None)
    with SearchView(out) as view:
        view(started(left_out=(), device_time=DeviceTime(60.0, 1200.0)))
        view._bars.refresh()
        view(started(left_out=(), device_time=DeviceTime(60.0)))
        view._bars.refresh()
    said = " ".join(text.getvalue().split())
    assert "1 trial done, 2 to go, device time 1.0 min of 20.0 min" in said
    assert re.search(r"trials \S+ 1/3 1.0 min of 20.0 min best - ", said)
    assert said.count("1 trial done, 2 to go, device time 1.0 min ") == 2
    assert re.search(r"trials \S+ 1/3 best - ", said)
