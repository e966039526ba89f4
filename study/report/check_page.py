"""The page of `check-data`: duplicates side by side, doubtful labels, flawed photos."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from study.datasets.check import Checked
from study.report.markup import asset, environment, policy, write_page
from study.report.thumbnails import thumbnails
from study.views.data_check import checked_document

MOST_PAIRS, MOST_DOUBTS, MOST_FLAWS = 200, 100, 100
"""How many of each kind are shown, the worst first, so that a page stays below 20 MB."""


def write_check_page(checked: Checked, file: Path) -> None:
    """Write the findings as one self-contained HTML file, whole or not at all."""
    write_page(check_page(checked), file)


def check_page(checked: Checked) -> str:
    """Return the page's HTML. Every name in it is escaped, and only our script runs."""
    found = checked_document(checked)
    pairs = found["pairs"][:MOST_PAIRS]
    doubts = (found["doubts"] or [])[:MOST_DOUBTS]
    flaws = found["flaws"][:MOST_FLAWS]
    script, style = asset("theme.js"), asset("report.css")
    return (
        environment()
        .get_template("check.html.j2")
        .render(
            found={**found, "pairs": pairs, "doubts": doubts, "flaws": flaws},
            kinds=_kinds(pairs),
            pictures=thumbnails(checked.manifest.root, _paths(pairs, doubts, flaws)),
            policy=policy([script], [style]),
            script=script,
            style=style,
        )
    )


def _kinds(pairs: list[dict[str, Any]]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Sort pairs by what they mean: a heading, a sentence, and the pairs; each pair once."""
    leaks = [pair for pair in pairs if pair["leaks"]]
    clashes = [pair for pair in pairs if pair["conflicts"] and not pair["leaks"]]
    inside = [pair for pair in pairs if not (pair["leaks"] or pair["conflicts"])]
    kinds = [
        (
            "Across splits",
            "Validation or test photos that are in train, too, make scores too good.",
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
