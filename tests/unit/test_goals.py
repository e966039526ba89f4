"""What a rule shall reach: settings under flags, and one sentence for what cannot be."""

from pathlib import Path
from typing import Any

import pytest

from study.config.costs import Costs
from study.config.loading import load_config
from study.config.schema import StudyConfig
from study.errors import ConfigError
from study.selection.goals import Goal, goal_of, parse_recalls

PLANES = ("A380", "B747")


def refused(costs: dict[str, Any] | None = None, **flags: Any) -> str:
    """Return the sentence with which a goal is refused."""
    given: dict[str, Any] = {"cost_flags": (), "recall_flags": (), "reject": None} | flags
    with pytest.raises(ConfigError) as error:
        goal_of(Costs(**(costs or {})), classes=PLANES, **given)
    return str(error.value)


def test_nothing_asked_is_no_goal() -> None:
    """Who names no price, recall or rejection gets no rule."""
    assert goal_of(Costs(), (), (), None, PLANES) is None
    assert goal_of(StudyConfig().costs, [], [], None, PLANES) is None


@pytest.mark.parametrize(
    ("costs", "flags", "goal"),
    [
        ({"prices": {"A380>B747": 5}}, ((), (), None), Goal(((0, 5), (1, 0)))),
        ({}, (("B747>A380=0.5",), (), None), Goal(((0, 1), (0.5, 0)))),
        ({"prices": {"A380>B747": 5}}, (("A380>B747=1",), (), None), Goal(((0, 1), (1, 0)))),
        ({"prices": {"A380>B747": 5}}, (("B747>A380=2",), (), None), Goal(((0, 5), (2, 0)))),
        ({"matrix": [[0, 7], [3, 0]]}, ((), (), None), Goal(((0, 7), (3, 0)))),
        ({"matrix": [[0, 7], [3, 0]]}, (("A380 > B747=1",), (), None), Goal(((0, 1), (3, 0)))),
        (
            {"matrix": [[0, 7], [3, 0]], "prices": {"A380>B747": 1e-7}},
            ((), (), None),
            Goal(((0, 1e-7), (3, 0))),
        ),
        ({"reject": 0.2}, ((), (), None), Goal(((0, 1), (1, 0)), 0.2)),
        ({"reject": 0.2}, ((), (), 0.0), Goal(((0, 1), (1, 0)), 0.0)),
        (
            {"recall": {"A380": 0.9, "B747": 0.8}},
            ((), ("A380>=0.99",), None),
            Goal(((0, 1), (1, 0)), None, ((0, 0.99), (1, 0.8))),
        ),
    ],
)
def test_flags_lie_over_prices_over_the_matrix(
    costs: dict[str, Any], flags: tuple[Any, Any, Any], goal: Goal
) -> None:
    """Each layer changes only what it names, even to 1, the price of what is not named."""
    assert goal_of(Costs(**costs), *flags, PLANES) == goal


def test_recalls_are_read_by_class() -> None:
    """Spaces, a class that is called like a sign, and a second word on the same class."""
    assert parse_recalls(["B747 >= 1", "A380>=0.99", "A380>=0.9"], PLANES) == ((0, 0.9), (1, 1.0))
    assert parse_recalls(["a>=b>=0.5"], ("x", "a>=b")) == ((1, 0.5),)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cost_flags": ["A380>B74=5"]}, "--cost 'A380>B74=5' must name two of the classes A380,"),
        ({"cost_flags": ["5"]}, "got '5'; the classes are A380, B747"),
        ({"cost_flags": ["A380>B747=-1"]}, "--cost 'A380>B747=-1' must end with a number of at"),
        ({"cost_flags": ["A380>A380=1"]}, "--cost 'A380>A380=1' must be of two different classes"),
        ({"recall_flags": ["A38>=0.9"]}, "--recall 'A38>=0.9' must name one of the classes A380,"),
        ({"recall_flags": ["A380=0.9"]}, "--recall must be CLASS>=SHARE, got 'A380=0.9'; the cl"),
        ({"recall_flags": ["A380>=99"]}, "--recall 'A380>=99' must end with a share above 0"),
        ({"recall_flags": ["A380>=x"]}, "--recall 'A380>=x' must end with a share above 0"),
        ({"reject": -1.0}, "--reject-cost must be at least 0, got -1"),
        ({"reject": float("nan")}, "--reject-cost must be at least 0, got nan"),
        ({"costs": {"prices": {"a>b": 1}}}, "in [costs], cost 'a>b=1.0' must name two of"),
        ({"costs": {"recall": {"a": 1}}}, "in [costs], recall 'a>=1.0' must name one of"),
        ({"costs": {"matrix": [[0]]}}, "a row for each of the classes A380, B747, got 1 rows"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(asked: dict[str, Any], words: str) -> None:
    """It names the flag or the section, the value and the classes."""
    assert words in refused(**asked)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prices = 3", "costs.prices must be a table"),
        ('prices = {"A380" = 1}', "costs.prices must be named TRUE>PREDICTED, got 'A380'"),
        ('prices = {"A380>B747" = -1}', "costs.prices.A380>B747 must be at least 0, got -1"),
        ('prices = {"A380>B747" = inf}', "costs.prices.A380>B747 must be a finite"),
        ("matrix = [[0, 1], [1]]", "costs.matrix must be a square, got rows of [2, 1]"),
        ("matrix = [[1, 1], [1, 0]]", "costs.matrix must have 0 where the answer is right"),
        ("reject = -0.5", "costs.reject must be at least 0, got -0.5"),
        ("recall = {A380 = 99}", "costs.recall.A380 must be at most 1, got 99"),
        ("rejects = 1", "there is no setting 'costs.rejects'; did you mean 'reject'?"),
    ],
)
def test_wrong_costs_in_a_file_are_named(tmp_path: Path, text: str, words: str) -> None:
    """The shape is checked when the file is read; classes are known only later."""
    (tmp_path / "study.toml").write_text(f"[costs]\n{text}\n")
    with pytest.raises(ConfigError) as error:
        load_config({}, tmp_path / "study.toml")
    assert words in str(error.value)


def test_costs_come_back_from_json() -> None:
    """What the database keeps of them makes the same costs again."""
    costs = {
        "prices": {"A380>B747": 5},
        "matrix": [[0, 2], [1, 0]],
        "reject": 0.2,
        "recall": {"A380": 0.99},
    }
    config = load_config({"costs": costs})
    assert config.costs.matrix == ((0, 2), (1, 0))
    assert StudyConfig(**config.model_dump(mode="json")) == config
