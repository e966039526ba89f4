"""The page of `check-data`: duplicates side by side, doubtful labels, flawed photos."""

import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from study.datasets.check import Checked
from study.report.thumbnails import thumbnails
from study.views.data_check import plain

MOST_PAIRS, MOST_DOUBTS, MOST_FLAWS = 200, 100, 100
"""So many of each kind are shown, the worst first: a page should stay below 20 MB."""


def write_check_page(checked: Checked, file: Path) -> None:
    """Write what was found as one HTML file that needs nothing else, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        # A name of a file may hold bytes that are no text.
        temporary.write_text(check_page(checked), encoding="utf-8", errors="replace")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def check_page(checked: Checked) -> str:
    """Return the page's HTML. Every name in it is escaped, and no script runs."""
    found = plain(checked)
    pairs = found["pairs"][:MOST_PAIRS]
    doubts = (found["doubts"] or [])[:MOST_DOUBTS]
    flaws = found["flaws"][:MOST_FLAWS]
    pictures = thumbnails(checked.manifest.root, _paths(pairs, doubts, flaws))
    environment = Environment(
        loader=PackageLoader("study.report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("check.html.j2").render(
        found={**found, "pairs": pairs, "doubts": doubts, "flaws": flaws},
        kinds=_kinds(pairs),
        pictures=pictures,
        style=(files("study.report") / "assets" / "check.css").read_text(encoding="utf-8"),
    )


def _kinds(pairs: list[dict[str, Any]]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Sort pairs by what they mean: a heading, a sentence, and the pairs; each pair once."""
    leaks = [pair for pair in pairs if pair["leaks"]]
    clashes = [pair for pair in pairs if pair["conflicts"] and not pair["leaks"]]
    inside = [pair for pair in pairs if not (pair["leaks"] or pair["conflicts"])]
    kinds = [
        (
            "Across splits",
            "What a network has learned from is no test of it: these make scores too good.",
            leaks,
        ),
        ("Under two labels", "One of the two labels is wrong.", clashes),
        ("Within a split", "They count twice, in training or in the score.", inside),
    ]
    return [kind for kind in kinds if kind[2]]


def _paths(*found: Iterable[dict[str, Any]]) -> list[str]:
    pairs, doubts, flaws = found
    ends = [pair[end]["path"] for pair in pairs for end in ("first", "second")]
    return ends + [each["path"] for each in (*doubts, *flaws)]
