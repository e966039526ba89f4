"""`import encore`, as a prompt and a notebook show it."""

from dataclasses import replace

import encore
import study
from study.report.figures.style import Panel
from study.report.inline import inline
from tests.unit.test_choice_views import chosen


def test_completion_lists_what_is_meant_to_be_used() -> None:
    """`dir` has the public names and no other; each can be had, and is what `study` has."""
    assert dir(encore) == [
        "Selection",
        "Study",
        "best",
        "check_data",
        "load",
        "report",
        "search",
    ]
    assert set(dir(study)) == set(study.__all__)
    assert encore.search is study.search
    assert encore.best is study.best
    assert callable(encore.report)  # `study.report` is a room


def test_a_selection_is_short_and_its_names_are_escaped() -> None:
    """One line at a prompt; in a notebook a table in which no name is markup."""
    found = replace(chosen(), study="<script>alert(1)</script>", file="/x/<b>\x1b[31m.safetensors")
    assert len(repr(found)) < 300
    assert "\x1b" not in repr(found)
    assert "\n" not in repr(found)
    html = found._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;" in html


def test_a_panel_without_a_figure_says_why() -> None:
    """What there is nothing to draw of is a figure with a sentence, and no error."""
    made = inline(Panel(None, "No epoch <has> ended."))
    assert made.layout.title.text == "No epoch &lt;has&gt; ended."
    assert not made.data
