"""What `best` and `compare` print for a person: complete, literal, within the terminal's width."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from storage.records import Look
from study.criterion import Criterion
from study.selection.compare import Comparison, Difference, Side
from study.selection.final_test import FinalTest
from study.selection.leaks import Leaks
from study.selection.result import Mistake, ProbeFound, RunnerUp, Selection
from study.selection.schedule_ranking import ScheduleLine
from study.selection.thresholds import Goal, operate
from study.statistics.selection_bias import BiasCorrected, By
from study.views.selection import (
    print_best,
    print_comparison,
    print_cost,
    print_details,
    print_file,
    print_final_test,
    print_summary,
)
from tests.lab import schedule, stage
from trainers.metrics import ClassNumbers

HOSTILE = r"[red]a[/] [/] [bold :fire: \[b] [link=http://x]z"
"""Closes a tag that is not open, opens some, and asks for an emoji."""

OF = schedule(stage(64, dropout=(0.25, 0.5)), stage(96))


def console(width: int = 200) -> tuple[Console, io.StringIO]:
    """Make the console of the command line, into a string."""
    text = io.StringIO()
    return Console(file=text, width=width, emoji=False), text


def ranked(trial: int, **others: Any) -> ScheduleLine:
    """Make a schedule of two seeds."""
    given: dict[str, Any] = {
        "digest": "d" * 64,
        "schedule": "64 px",
        "trial": trial,
        "scores": {3: 0.5, 4: 0.6},
        "mean": 0.55,
        "spread": 0.07,
        "low": 0.41,
        "high": 0.69,
        "bound": 0.47,
        "best": 0.6,
        "seconds": 90.0,
        "tied": True,
    }
    return ScheduleLine(**(given | others))


def chosen(**others: Any) -> Selection:
    """Make a selection in which every name is hostile."""
    given: dict[str, Any] = {
        "study": HOSTILE,
        "trial": 4,
        "seed": 3,
        "file": f"runs/{HOSTILE}.safetensors",
        "sha256": "f" * 64,
        "metric": Criterion.ACCURACY,
        "by": By.MAX,
        "score": 0.5,
        "bias_corrected": BiasCorrected(0.5, 0.42, 0.3, 0.61, 77, 2000),
        "loss": 0.6,
        "errors": 1,
        "n_valid": 2,
        "classes": (HOSTILE, "b"),
        "per_class": (ClassNumbers(1, 0.5, 0.7, 1), ClassNumbers(0, 0, 0, 1)),
        "confusion": [[1, 0], [1, 0]],
        "mistakes": (Mistake(f"{HOSTILE}.png", "b", HOSTILE, 0.6),) * 23,
        "schedule": OF.to_dict(),
        "schedule_digest": OF.digest,
        "stage": 1,
        "epoch": 2,
        "schedule_mean": 0.5,
        "schedule_spread": 0.1,
        "seed_scores": {3: 0.5, 4: 0.6},
        "trials": 9,
        "runners_up": (RunnerUp(5, 0, 0.4, 0.3, "runs/[red]w [bold].safetensors"),),
        "schedules": (
            ranked(4, schedule=HOSTILE),
            ranked(6, mean=0.54, seconds=30.0),
            ranked(8, mean=0.2, seconds=1.0, tied=False, p_value=0.001),
        ),
        "probe": None,
        "goal": None,
        "operation": None,
        "damaged": (HOSTILE,),
        "recall_intervals": ((0.3, 1.0), (0.0, 0.7)),
    }
    return Selection(**(given | others))


def printed(one: Selection, width: int = 200, top: int = 5) -> str:
    """Print a selection with its details."""
    out, text = console(width)
    print_file(out, one)
    print_best(out, one, details=True)
    print_details(out, one, top)
    return text.getvalue()


def told(one: Selection, width: int = 120, *, named: bool = False) -> list[str]:
    """Print a selection alone, as lines."""
    out, text = console(width)
    print_file(out, one)
    print_best(out, one, named=named)
    return text.getvalue().splitlines()


def test_best_is_printed_literally() -> None:
    """File, study, classes, mistakes, schedules, runners-up, damaged files, whatever their name."""
    said = printed(chosen())
    assert f"skipped {HOSTILE}" in said
    assert f"runs/{HOSTILE}.safetensors" in said.splitlines()
    assert f"the weights: study {HOSTILE}, trial 4 of 9, seed 3, stage 2, epoch 2" in said
    assert "accuracy 50.0 %: 1 error on 2 validation photos, log loss 0.6000" in said
    assert "estimated accuracy on new photos: 42.0 % (95 % CI 30.0-61.0)" in said
    assert "the observed 50.0 % was" in said
    assert "was chosen from 77 epochs" in said
    assert f": b misclassified as {HOSTILE} (60 %)" in said
    assert said.count(" misclassified as ") == 10
    assert "and 13 more" in said
    assert "a new run of this schedule: 50.0 % ± 10.0 (mean and sd of 2 seeds)" in said
    assert "[red]w [bold].safetensors" in said
    assert said.count(HOSTILE) >= 16


def test_schedules_are_listed_with_what_is_as_good() -> None:
    """Ranked, each with its interval; the tied ones marked, and the cheapest of them named."""
    rows = [row.split() for row in printed(chosen()).splitlines()]
    assert ["4", "2", "55.0", "41.0-69.0", "60.0", "1.5", "min"] in [r[:7] for r in rows]
    assert ["6", "2", "=", "54.0", "41.0-69.0"] in [row[:5] for row in rows]
    assert ["8", "2", "20.0"] in [row[:3] for row in rows]
    said = printed(chosen())
    assert "schedules, by mean over seeds" in said
    assert "by lower bound of the mean" in printed(chosen(by=By.LCB))
    assert "20.0" not in printed(chosen(), top=2)
    assert "schedules, by" not in printed(chosen(), top=0)
    assert "of the first: trial 6, 54.0 %, 30 s" in " ".join(said.split())
    assert "2 of 3 schedules are tied (=) within noise" in " ".join(said.split())
    both = printed(chosen(schedules=(ranked(4), ranked(6))))
    assert "both schedules are tied (=): their differences may be chance" in " ".join(both.split())
    alone = chosen(schedules=(ranked(4),))
    assert "tied" not in printed(alone)


def test_best_of_one_seed_says_what_would_tell_more() -> None:
    """No spread is invented where there is one seed, and no expectation from two photos."""
    one = chosen(
        schedule_spread=None, seed_scores={3: 0.5}, damaged=(), runners_up=(), bias_corrected=None
    )
    said = printed(one)
    assert "a new run of this schedule: unknown (one seed); `encore repeat 4` tells" in said
    assert "runners-up" not in said
    assert "2 validation photos are too few to estimate the score on new ones" in said
    only = chosen(bias_corrected=BiasCorrected(0.5, 0.42, 0.3, 0.61, 1, 2000))
    assert "optimistic" not in printed(only)


def test_the_rule_is_printed_where_prices_were_set() -> None:
    """Its classes literally, and nothing of it where none were."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    goal = Goal(((0.0, 5.0), (1.0, 0.0)))
    rule = operate(labels, rng.dirichlet([1, 1], 40), goal)
    priced = chosen(goal=goal, operation=rule, metric=Criterion.COST, score=1.25)
    assert "cost 1.2500: 1 error" in printed(priced)
    out, text = console()
    print_cost(out, priced)
    assert f"name {HOSTILE} from" in text.getvalue()
    assert "per photo" in text.getvalue()
    assert "per photo" not in printed(chosen())


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_answer_is_ten_lines(width: int) -> None:
    """What was chosen, what it is worth, what a new run would be; the rest is elsewhere."""
    real: dict[str, Any] = {"study": "PHOTOS", "damaged": (), "by": By.FORECAST}
    real |= {"trial": 14, "trials": 20, "n_valid": 359, "score": 0.922, "errors": 28}
    real |= {"bias_corrected": BiasCorrected(0.922, 0.907, 0.872, 0.945, 77, 2000)}
    real |= {"runners_up": (RunnerUp(13, 0, 0.925, 0.9, "w"),)}
    one = chosen(**real, probe=ProbeFound(0, 224, 0.875, 45))
    lines = told(one, width)
    assert len(lines) <= 10
    assert lines[0].startswith("runs/")
    assert any(line.startswith("trial 13 scored 92.5 %") for line in lines)
    assert any(line.startswith("untuned probe at 224 px") for line in lines)
    assert any(line.startswith("2 of 3 schedules are tied") for line in lines)
    assert lines[-1].startswith("--details: ")
    assert "--refit 3: " in lines[-1]
    assert "misclassified" not in "".join(lines)
    assert len(told(replace(one, schedule_spread=None), width)) <= 10


def test_commands_name_the_study_if_it_was_named() -> None:
    """Else they are about the one used last, as they are without it."""
    one = chosen(schedule_spread=None, study="my photos")
    assert any("`encore repeat 4` tells" in line for line in told(one))
    command = "`encore repeat 4 --study 'my photos'` tells"
    assert command in " ".join(told(one, named=True))


def test_nothing_is_squeezed_at_eighty_columns() -> None:
    """The matrix is beside the classes' numbers, below them, or the worst of it is a list."""
    ten, many = (tuple(f"{word}{n}" for n in range(10)) for word in ("", "a longer name "))
    confusion = np.eye(10, dtype=int) * 30
    confusion[2, 7] = 5
    one = chosen(
        classes=ten,
        per_class=(ClassNumbers(0.9, 0.8, 0.7, 30),) * 10,
        recall_intervals=((0.2, 1.0),) * 10,
        confusion=confusion.tolist(),
        mistakes=(),
        study="s",
    )
    for width, classes, title in (
        (120, ten, "true class by predicted class"),
        (80, ten, "class by class"),
        (80, many, "most frequent confusions"),
    ):
        said = printed(replace(one, classes=classes), width)
        assert title in said
        assert "…" not in said
        assert "20.0-100.0" in said
    lines = [line.split() for line in said.splitlines()]
    assert ["5", "a", "longer", "name", "2", "a", "longer", "name", "7"] in lines


def test_leaks_stand_beside_every_score() -> None:
    """Two photos of a hundred: how many, and the score without them."""
    leaks = Leaks(2, False, 98, 10, 88 / 98, BiasCorrected(0.9, 0.87, 0.8, 0.93, 7, 2000))
    says = (
        "2 of 100 validation photos are also in train: scores are too high; without them accuracy "
        "89.8 % (10 errors on 98), on new photos 87.0 % (95 % CI 80.0-93.0)"
    )
    one = chosen(n_valid=100, leaks=leaks)
    assert one.leak_text == says
    for show in (print_best, print_summary, print_cost):
        out, text = console(400)
        show(out, one)
        assert says in text.getvalue()
    assert "too few are left" in str(chosen(leaks=replace(leaks, score=None)).leak_text)


def test_one_photo_of_many_is_two_decimals() -> None:
    """Of 1,000 photos one is 0.1 %; of 1,001 it is less, and shows in the second decimal."""
    assert "accuracy 96.2 %" in printed(chosen(score=0.96249, n_valid=1000))
    assert "accuracy 96.25 %" in printed(chosen(score=0.9625, n_valid=1001))


def test_a_summary_is_four_lines() -> None:
    """What was found, what to expect, and what repeats came to; the file's name literally."""
    out, text = console()
    print_summary(out, chosen())
    first, second, third, fourth = text.getvalue().splitlines()
    assert first == f"best: runs/{HOSTILE}.safetensors"
    assert second == "accuracy 50.0 %: 1 error on 2 validation photos, log loss 0.6000"
    assert third.startswith("estimated accuracy on new photos: 42.0 % (95 % CI 30.0-61.0)")
    assert fourth.startswith("a new run of this schedule: ")


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (ProbeFound(0, 224, 0.0, 2), "accuracy 0.0 %, 2 errors; 1 fewer with these weights"),
        (ProbeFound(0, 224, 1.0, 0), "accuracy 100.0 %, 0 errors; 1 more with these weights"),
        (ProbeFound(4, 224, 0.5, 1), "this is the probe at 224 px, before any tuning: the search"),
    ],
)
def test_what_was_gained_over_the_probe_is_said(probe: ProbeFound, says: str) -> None:
    """In `best` and at the end of a search, be it a gain, a loss, or the probe itself."""
    out, text = console()
    print_summary(out, chosen(probe=probe))
    assert says in text.getvalue().splitlines()[4]
    assert says in printed(chosen(probe=probe))


def comparison(differences: int = 23, p_value: float = 0.0043) -> Comparison:
    """Make a comparison of two files with hostile names."""
    side = Side(f"runs/{HOSTILE}", 4, 0.987, 0.967, 0.995)
    each = Difference(f"{HOSTILE}.png", "b", HOSTILE, "b")
    return Comparison(
        HOSTILE, 309, side, replace(side, errors=18), 287, 18, 4, 0, p_value, (each,) * differences
    )


def test_a_comparison_is_printed_literally() -> None:
    """Both sides, where they are right, what luck says, and twenty of the photos that differ."""
    out, text = console()
    print_comparison(out, comparison())
    said = text.getvalue()
    assert f"runs/{HOSTILE}: accuracy 98.7 % (95 % CI 96.7-99.5), 4 errors on 309" in said
    assert (
        "both right on 287 photos, neither on 0; only the first on 18, only the second on" in said
    )
    assert "p = 0.0043 (McNemar, exact): unlikely to be chance" in said
    assert said.count(f"{HOSTILE}.png") == 20
    assert "and 3 more, all in --json" in said
    out, text = console()
    print_comparison(out, comparison(0, 0.5))
    assert "p = 0.5 (McNemar, exact): this may well be chance" in text.getvalue()
    assert "named differently" not in text.getvalue()


def test_groups_are_told_wherever_photos_are_counted() -> None:
    """In `best`, `compare` and a final test; and that tests go by groups."""
    assert "1 error on 40 validation photos in 8 groups, log" in printed(
        chosen(n_valid=40, n_groups=8)
    )
    none = chosen(n_valid=40, n_groups=8, bias_corrected=None)
    assert "40 validation photos in 8 groups are too few to estimate" in printed(none)
    one = chosen(n_groups=8, bias_corrected=BiasCorrected(0.5, 0.42, None, None, 77, 2000, 1))
    assert "too few groups of photos of class b for an interval" in printed(one)
    out, text = console()
    print_comparison(out, replace(comparison(0), groups=17))
    assert "4 errors on 309 validation photos in 17 groups" in text.getvalue()
    assert "(signs of the groups' differences)" in text.getvalue()
    assert "McNemar" not in text.getvalue()
    assert "3 errors on 30 test photos in 5 groups" in looked("a", groups=5)


def looked(*files: str, cost: float | None = None, groups: int | None = None) -> str:
    """Print a final test after so many looks, each at the file of a hash."""
    looks = tuple(
        Look(
            study_id=1,
            trial=4,
            sha256=sha256,
            criterion="accuracy",
            score=0.9,
            errors=3,
            photos=30,
            looked_at=datetime.now(UTC),
        )
        for sha256 in files
    )
    out, text = console()
    found = FinalTest(0.9, 0.9, 0.744, 0.965, 3, 30, cost, looks, groups)
    print_final_test(out, chosen(), found)
    return text.getvalue()


def test_a_second_look_at_the_test_photos_is_told() -> None:
    """The first is not; how many there were, and at how many files, from then on."""
    first = looked("a")
    assert first.splitlines()[0].startswith("test photos: accuracy 90.0 % (95 % CI 74.4-96.5)")
    assert "), 3 errors on 30" in first
    assert "look" not in first
    assert "on the validation photos: accuracy 50.0 %; estimated on new photos: 42.0 %" in first
    assert "look 3 at these photos, at 2 weights files" in looked("a", "b", "a")
    assert "cost" not in first
    assert "cost 0.2500 per photo, by the rule of --cost" in looked("a", cost=0.25)


@pytest.mark.parametrize("width", [40, 60])
def test_narrow_terminals_get_everything_too(width: int) -> None:
    """Tables shrink or wrap, even with many classes; only paths to be copied may be longer."""
    many = tuple(f"class {n}" for n in range(40))
    wide = chosen(
        classes=many,
        per_class=(ClassNumbers(1, 1, 1, 1),) * 40,
        recall_intervals=((0.2, 1.0),) * 40,
        confusion=np.eye(40, dtype=int).tolist(),
    )
    for one in (wide, chosen()):
        said = printed(one, width)
        assert said.count("misclassified as") == 10
        long = [line for line in said.splitlines() if len(line) > width]
        paths = ("runs/", "skipped")
        assert all("misclassified as" in line or line.startswith(paths) for line in long)
    out, text = console(width)
    print_comparison(out, comparison())
    long = [line for line in text.getvalue().splitlines() if len(line) > width]
    assert all(line.startswith("runs/") for line in long)
    assert "".join(text.getvalue().split()).count(".png") == 20


def test_a_missing_interval_is_said_in_one_sentence() -> None:
    """Instead of limits: the class with too few photos, how many, and how many are needed."""
    said = printed(chosen(bias_corrected=BiasCorrected(0.5, 0.42, None, None, 77, 2000, few=1)))
    assert (
        "estimated accuracy on new photos: 42.0 % (too few photos of class b for an interval: 1, "
        in said
    )
    assert "at least 2 are needed)" in said
