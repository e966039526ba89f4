"""What is printed of others' texts: no control characters, no secrets, no formulas."""

import io
import json

import pytest
from rich.table import Table

from study.deployment.predict import Prediction, Predictions
from study.formatting import json_text
from study.sanitizing import harmless, printable, visible
from study.views.predictions import write_csv
from study.views.terminal import Terminal

HOSTILE = "\x1b[31mrose\x1b]0;owned\x07\r\x9b2J\u202egnp.exe\u2066"


def printed(*objects: object) -> str:
    """Print as the commands do, to a terminal with colours."""
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, width=200, emoji=False).print(*objects)
    return file.getvalue()


def test_a_text_steers_no_terminal() -> None:
    """Each control or bidirectional character is spelled out; nothing else is changed."""
    assert visible(HOSTILE).isprintable()
    assert visible("Ü näme [bold] 花 🌹") == "Ü näme [bold] 花 🌹"
    assert printable("one\ntwo\x1b") == "one\ntwo\\x1b"


def test_no_line_and_no_cell_steers_a_terminal() -> None:
    """Be it printed by itself, as markup or in a table: the console is the door."""
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    for said in (printed(HOSTILE), printed(f"[bold]{HOSTILE}[/]"), printed(table)):
        for mark in ("\x1b]", "\x07", "\r", "\x9b", "\u202e", "\u2066", "\x1b[31m"):
            assert mark not in said
        assert "rose" in said


def test_a_csv_steers_neither_terminal_nor_spreadsheet() -> None:
    """Not in its header, where classes stand, and not in its cells."""
    file = io.StringIO()
    classes = (HOSTILE, "=cmd|' /C calc'!A0")
    answer = Prediction(" @SUM(1)\x1b", HOSTILE, 1.0, dict.fromkeys(classes, 0.5))
    write_csv(file, Predictions("best", classes, None, iter(())), [answer])
    assert file.getvalue().replace("\n", "").isprintable()
    assert "\"'=cmd" in file.getvalue()
    assert "\"' @SUM" in file.getvalue()


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", " =1"])
def test_a_formula_becomes_text(cell: str) -> None:
    """A leading apostrophe says so."""
    assert harmless(cell) == f"'{visible(cell)}"


def test_json_stays_valid_and_loses_nothing() -> None:
    """What reads it gets the very names back."""
    assert json.loads(json_text({HOSTILE: [HOSTILE]})) == {HOSTILE: [HOSTILE]}
    assert "\x1b" not in json_text(HOSTILE)
