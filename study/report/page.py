"""The report as one self-contained HTML file."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from study.report.cautions import cautions
from study.report.contents import Contents
from study.report.figures.style import Drawing, Panel
from study.report.markup import asset, environment, policy
from study.report.panels import drawings
from study.report.pictures import Pictures, pairs, photos_json
from study.report.worst_errors import ExplainedErrors, worst_of
from study.searching.statuses import Status
from study.selection.schedule_ranking import cheapest, ties_text
from trainers.schedule import Schedule

SCRIPTS = ("theme", "page", "table", "trials", "tree", "classes", "watch")
"""The page's own script, in parts; they are one module, and see each other."""

EMPTY = ""
"""The initial contents of plotly's style sheets: their rules are added one by one."""


@dataclass(frozen=True)
class Report:
    """The contents of a page.

    `next_commands` use the winner, `commands` make it again; both by description. A page that is
    being watched loads itself again after `reload` seconds.
    """

    contents: Contents
    panels: Mapping[str, Panel] = field(repr=False)
    pictures: Pictures
    explanation: ExplainedErrors
    next_commands: Mapping[str, str]
    commands: Mapping[str, str]
    made: str
    top: int
    reload: int | None = None

    @property
    def states(self) -> dict[str, int]:
        """Count the trials by status."""
        contents = self.contents
        count = Counter(contents.statuses.of_trial(trial) for trial in contents.trials)
        return {status.value: count[status] for status in Status}

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the winner's score."""
        return list(cautions(self.contents.selection)) if self.contents.selection else []

    @property
    def drawings(self) -> tuple[Drawing, ...]:
        """The figures, by section and in its order."""
        return drawings()

    @property
    def unanswered(self) -> str:
        """Why no figure of probabilities can be drawn; shown once for all of them."""
        mine = [self.panels[d.name] for d in drawings() if d.section == "confidence"]
        return "" if any(each.figure for each in mine) else mine[0].said

    @property
    def made_by(self) -> dict[str, str]:
        """The environment from the winner's card; the command is shown separately."""
        return {k: v for k, v in self.explanation.made_by.items() if k != "command"}

    @property
    def versions(self) -> str:
        """The packages that the winner was made with."""
        return ", ".join(f"{name} {v}" for name, v in self.explanation.packages.items())


def render(report: Report) -> str:
    """Return the page. Every name in it is escaped, and only scripts listed by hash run."""
    contents = report.contents
    plotly, ours = _plotly(), asset(*(f"{name}.js" for name in SCRIPTS))
    style = asset("report.css")
    cells = report.panels["confusion"].data or ()
    payload = {
        name: {"figure": panel.figure, "data": panel.data} for name, panel in report.panels.items()
    }
    payload["photos"] = photos_json(contents, cells, report.pictures)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            contents=contents,
            chosen=contents.selection,
            winner=Schedule.from_dict(contents.selection.schedule) if contents.selection else None,
            cheapest=cheapest(contents.schedules) if contents.schedules else None,
            ties=ties_text(contents.schedules, " (=)"),
            worst=[_fallback(contents, place) for place in worst_of(contents, report.top)],
            pairs=pairs(contents),
            payload=payload,
            policy=policy([plotly, ours], [style, EMPTY]),
            sheets=_sheets(plotly),
            plotly=plotly,
            script=ours,
            style=style,
        )
    )


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # not needed to report a problem with a study

    # A browser reads any line's end as \n, and hashes what it has read.
    return re.sub(r"\r\n?", "\n", get_plotlyjs())


def _sheets(plotly: str) -> list[str]:
    """Return the ids of style sheets that plotly adds unless they are there: its maps'."""
    return re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly)


def _fallback(contents: Contents, place: int) -> dict[str, Any]:
    """Return a photo's description from the database only."""
    found = contents.predictions
    photo = contents.photos[place]
    if found is None:
        raise ValueError("a worst photo needs predictions")
    mine = slice(place * contents.questions, (place + 1) * contents.questions)
    (label,), (predicted,) = (
        contents.texts(answers[mine]) for answers in (contents.labels, found.predicted)
    )
    return {
        "path": photo.path,
        "label": label,
        "predicted": predicted,
        "probability": float(found.confidence[mine].min()),
        "wrong": predicted != label,
    }
