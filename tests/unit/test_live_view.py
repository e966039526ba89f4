"""A search while it runs: bars on a terminal, a line a trial without one."""

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from storage.records import State, Trial
from study.budget import DeviceTime
from study.events import (
    EpochFinished,
    EpochProgress,
    Notice,
    SearchStarted,
    StageStarted,
    TrialFinished,
    Working,
)
from study.views.live import Cell, fitted
from study.views.progress import SearchView
from tests.lab import schedule, stage, trial_of
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
        "seed": 3,
        "state": state,
        "score": 0.9876,
        "loss": 0.1,
        "seconds": 12.34,
    }
    return trial_of(OF, **({"number": 4} | given | others))


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


def drawn(view: SearchView, text: io.StringIO) -> str:
    """Draw the live view; return what was printed since it was drawn last."""
    view._live.refresh()
    said = text.getvalue()
    text.seek(0)
    text.truncate()
    return said


def rows(view: SearchView) -> list[str]:
    """Return the rows of the live view, without what comes of a colour."""
    return [str(row) for row in view._render().renderables]


def lines_of(*told: TrialFinished, photos: int = 0) -> list[str]:
    """Return the lines of trials that end one after the other, as a pipe gets them."""
    out, text = console(60)
    with SearchView(out) as view:
        view(started(left_out=(), photos=photos))
        for each in told:
            view(each)
    return text.getvalue().splitlines()[3:]


def test_a_probe_is_the_number_to_beat_as_soon_as_it_is_there() -> None:
    """Each probe, even a shared one, is one line before its trial ends; the best is to beat."""
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
    """Epochs and stages are not told; no line has a character that steers a terminal."""
    out, text = console(60)
    with SearchView(out) as view:
        view(Working("reading photos", 1, 2))
        view(started(left_out=()))
        for number in (4, 5, 16):
            view(StageStarted(number, OF, 3, 0, 0))
            view(EpochProgress(number, 1, 3, 9))
            view(EpochFinished(number, 1, epoch(), SPENT, 60.0))
            better = trial(number=number, score=0.98 + number / 1000)
            view(TrialFinished(better, 2, f"acc_{number}.safetensors", 5))
    assert text.getvalue().splitlines()[3:] == [
        "#4  *98.4 %  12 s  64>96 px  2 ep  seed 3  acc_4.safetensors  2/7",
        "#5  *98.5 %  12 s  64>96 px  2 ep  seed 3  acc_5.safetensors  3/8",
        "#16 *99.6 %  12 s  64>96 px  2 ep  seed 3  acc_16.safetensors  4/9",
    ]
    assert "\x1b" not in text.getvalue()
    assert "\r" not in text.getvalue()


def test_what_is_counted_is_explained_once() -> None:
    """The number of trials, the numbers of trials and the star, before the first of them."""
    out, text = console(60)
    with SearchView(out) as view:
        view(started(left_out=(), goal="20, and at most 3 repeats each of the best 5", to_go=34))
    assert text.getvalue().splitlines()[1:] == [
        "1 trial done, 34 to go, device time 0.0 s",
        "1/35: trials that have ended, of 20, and at most 3 repeats each of the best 5",
        "#: the order in which trials began; *: the best so far",
    ]


def test_a_line_says_what_is_special_about_a_trial() -> None:
    """Repeats, shared stages, what was resumed, pruned or failed; a file only of a new best."""
    ended = trial(score=0.5)
    assert lines_of(
        TrialFinished(trial(score=0.9), 2, "a.safetensors", 1),
        TrialFinished(ended, 2, "b.safetensors", 1, repeats=3),
        TrialFinished(ended, 2, None, 1, shared=(1, 3)),
        TrialFinished(ended, 2, None, 1, shared=(2, 3), resumed=True),
        TrialFinished(trial(State.PRUNED, score=0.95), 1, None, 1),
        TrialFinished(trial(State.FAILED, score=None, failure=f"bug: {HOSTILE}\x1b"), 0, None, 0),
    ) == [
        "#4  *90.0 %  12 s  64>96 px  2 ep  seed 3  a.safetensors  2/3",
        "#4   50.0 %  12 s  64>96 px  2 ep  seed 3  (repeat of #3)  3/4",
        "#4   50.0 %  12 s  64>96 px  2 ep  seed 3  (same first stage as #3)  4/5",
        "#4   50.0 %  12 s  64>96 px  2 ep  seed 3  (same first 2 stages as #3; resumed)  5/6",
        "#4   95.0 %  12 s  64 px  1 ep  seed 3  (pruned after 1 of 2 stages)  6/7",
        f"#4  failed  12 s  64 px  0 ep  seed 3  bug: {HOSTILE}\\x1b  7/7",
    ]


@pytest.mark.parametrize("failure", [None, "a" * 500])
def test_a_line_fits_120_columns(failure: str | None) -> None:
    """However long names and reasons are, what matters stays; a long file has its own line."""
    file = f"acc98.33_{'b' * 60}.safetensors"
    state = State.FAILED if failure else State.COMPLETE
    of = trial(state, number=1234, failure=failure)
    line, *more = lines_of(TrialFinished(of, 12, file, 1, repeats=1201, shared=(2, 1203)))
    assert len(line) <= 120
    assert line.startswith("#1234 failed" if failure else "#1234 *98.8 %  12 s")
    assert ("aaa..." in line) if failure else more == [f"     {file}"]


def test_scores_have_the_decimals_of_their_photos() -> None:
    """With more than a thousand photos one of them is less than a tenth of a per cent."""
    (line,) = lines_of(TrialFinished(trial(), 2, None, 1), photos=2000)
    assert "*98.76 %" in line


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


def test_something_turns_from_the_first_second_on() -> None:
    """Before the first trial there is always a row: what is done, or that all is prepared."""
    now = 0.0
    out, text = console(160, force_terminal=True, color_system=None)
    with SearchView(out, lambda: now) as view:
        assert rows(view) == []
        now = 2.0
        (row,) = rows(view)
        assert row[1:] == " preparing  2.0 s"
        view(Working("reading photos", 7, 10))
        now = 4.0
        (row,) = rows(view)
        assert re.fullmatch(r". reading photos  \S+   70 %  7/10  2.0 s", row)
        view(Working("reading photos", 10, 10))
        view(Working("loading the network", 0, 0))
        now = 6.0
        (row,) = rows(view)
        assert row[1:] == " loading the network  2.0 s"
        view(Notice(f"{HOSTILE} is not to be trusted"))
        assert f"{HOSTILE} is not to be trusted" in drawn(view, text)


def test_work_amid_a_search_is_shown_beside_its_trials_if_it_takes_long() -> None:
    """Saving weights, say; once it is over, its row is gone."""
    now = 0.0
    out, _ = console(160, force_terminal=True, color_system=None)
    with SearchView(out, lambda: now) as view:
        view(started(left_out=()))
        view(StageStarted(4, OF, 3, 0, 0))
        view(Working("saving weights", 0, 0))
        assert len(rows(view)) == 2
        now = 1.0
        assert rows(view)[2].endswith("saving weights  1.0 s")
        view(Working("saving weights", 1, 1))
        assert len(rows(view)) == 2


def test_a_trial_moves_on_within_its_epoch() -> None:
    """Its bar moves with each batch; an epoch that begins again moves it back."""
    now = 0.0
    out, _ = console(200, force_terminal=True, color_system=None)
    with SearchView(out, lambda: now) as view:
        view(started(left_out=()))
        view(StageStarted(4, OF, 3, 0, 0))
        shares = []
        for done in (0, 5, 10, 5):
            view(EpochProgress(4, 1, done, 10))
            shares.append(re.findall(r"(\d+) %", rows(view)[1])[0])
        assert shares == ["0", "25", "50", "25"]
        view(EpochFinished(4, 1, epoch(), SPENT, 90.0))
        now = 30.0
        (search,) = rows(view)  # whether it goes on is not known
        assert search.endswith("1 between stages")
        view(StageStarted(4, OF, 3, 1, 1))
        search, row = rows(view)
        assert "30 s so far  about 1.0 min left" in search
        assert re.fullmatch(
            r". #4  \S+   50 %  epoch 2/2  stage 2/2  96 px  30 s  seed 3",
            row,
        )


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    """There are fewer cells in it, and none is cut."""
    out, _ = console(width, force_terminal=True, color_system=None)
    with SearchView(out) as view:
        view(started(left_out=(), device_time=DeviceTime(60.0, 1200.0)))
        view(StageStarted(4, schedule(stage(64, epochs=2), stage(96)), 3, 0, 0))
        view(EpochFinished(4, 1, epoch(), SPENT, 3600.0))
        for row in rows(view):
            assert len(row) < width - 2
            assert "…" not in row
        assert "epoch 2/3" in rows(view)[1]
        assert ("seed 3" in rows(view)[1]) == (width > 80)


def test_the_least_important_cells_go_first() -> None:
    """The last one is cut if there is no room for it either."""
    cells = [Cell("one", 3), Cell("two", 1), Cell("three", 2), Cell("", 9)]
    assert [str(fitted(cells, width)) for width in (15, 14, 9, 3, 2)] == [
        "one  two  three",
        "one  three",
        "one",
        "one",
        "o…",
    ]


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.LOG_LOSS])
def test_on_a_terminal_the_best_so_far_is_shown(metric: Metric) -> None:
    """The best is the metric's idea of it; failed trials and missing scores do not stumble."""
    out, text = console(160, force_terminal=True, color_system=None)
    with SearchView(out) as view:
        view(started(metric=metric, left_out=()))
        for number, score in enumerate((0.5, 0.25, None, 0.75)):
            state = State.FAILED if score is None else State.COMPLETE
            view(TrialFinished(trial(state, number=number, score=score), 2, None, 3 - number))
        best = "75.0 %" if metric.higher_is_better else "0.2500"
        assert f"best {best}" in rows(view)[0]
    assert "#3 " in text.getvalue()


def test_a_file_that_does_not_fit_the_terminal_has_a_line_of_its_own() -> None:
    """Nothing of the trial's line is left away for it."""
    file = f"{'f' * 60}.safetensors"
    out, text = console(80, force_terminal=True, color_system=None)
    with SearchView(out) as view:
        view(started(left_out=()))
        view(TrialFinished(trial(), 2, file, 1))
    said = [line.strip() for line in text.getvalue().splitlines()]
    assert any(line.endswith("seed 3") for line in said)
    assert any(line.endswith(file) and "#4" not in line for line in said)


def test_device_time_that_is_the_budget_is_the_bar_and_stands_in_each_line() -> None:
    """How much of how much after every epoch, and how many trials; their number ends nothing."""
    out, _ = console(160, force_terminal=True, color_system=None)
    with SearchView(out) as view:
        view(started(left_out=(), to_go=None, device_time=DeviceTime(60.0, 1200.0)))
        view(StageStarted(4, OF, 3, 0, 0))
        for seconds in (90.0, 1500.0):
            view(EpochFinished(4, 1, epoch(), DeviceTime(seconds, 1200.0)))
            assert (
                f"trials 1 trial, {seconds / 60:.{int(seconds < 600)}f} min of 20 min"
                in rows(view)[0]
            )
    said = lines_of(TrialFinished(trial(), 2, "w.safetensors", None))
    assert said[0].endswith("w.safetensors  2 trials, 0.0 s")


def test_device_time_beside_a_number_of_trials_is_said_with_it() -> None:
    """Both are said, as either may end the search; without a budget the time is not of anything."""
    out, text = console(160, force_terminal=True, color_system=None)
    with SearchView(out) as view:
        view(started(left_out=(), device_time=DeviceTime(60.0, 1200.0)))
        assert "trials 1/3, 1.0 min of 20 min" in rows(view)[0]
        view(started(left_out=(), device_time=DeviceTime(60.0)))
        assert "1/3  " in rows(view)[0]
    said = " ".join(text.getvalue().split())
    assert "1 trial done, 2 to go, device time 1.0 min of 20 min" in said
