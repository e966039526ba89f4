"""The report as one HTML file: everything in it, and nothing it could ask the network for."""

import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import jinja2

from storage.records import State
from study.formatting import count_text, score_text, time_text
from study.printable import visible
from study.report.contents import Contents
from study.report.figures.style import Panel
from study.report.pictures import Pictures, pairs, photos_json
from study.report.worst_errors import Explanation, worst_of
from study.selection.schedule_ranking import cheapest
from study.wording import stage_table
from trainers.schedule import Schedule

SCRIPTS = ("page", "table", "trials", "tree", "classes", "watch")
"""The page's own script, in parts; they are one module, and see each other."""

EMPTY = ""
"""What plotly's style sheets hold when they are added: their rules come later, one by one."""


@dataclass(frozen=True)
class Report:
    """All that a page is made of; `commands` are those that make the winner again.

    A page that is being watched loads itself again after `reload` seconds.
    """

    contents: Contents
    panels: Mapping[str, Panel] = field(repr=False)
    pictures: Pictures
    explanation: Explanation
    commands: Mapping[str, str]
    made: str
    top: int
    reload: int | None = None

    @property
    def states(self) -> dict[str, int]:
        """Count the trials by how far they have come."""
        count = Counter(trial.state for trial in self.contents.trials)
        return {state.value: count[state] for state in State}

    @property
    def made_by(self) -> dict[str, str]:
        """Who made the winner: what its card tells, but the command, which is shown apart."""
        return {k: v for k, v in self.explanation.made_by.items() if k != "command"}

    @property
    def versions(self) -> str:
        """The packages that the winner was made with."""
        return ", ".join(f"{name} {v}" for name, v in self.explanation.packages.items())


def render(report: Report) -> str:
    """Return the page. Every name in it is escaped, and only scripts listed by hash run."""
    contents = report.contents
    plotly, ours = _plotly(), _asset(*(f"{name}.js" for name in SCRIPTS))
    style = _asset("report.css")
    cells = report.panels["confusion"].data or ()
    payload = {
        name: {"figure": panel.figure, "data": panel.data} for name, panel in report.panels.items()
    }
    payload["photos"] = photos_json(contents, cells, report.pictures)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            contents=contents,
            chosen=contents.selection,
            winner=Schedule.from_dict(contents.selection.schedule) if contents.selection else None,
            cheapest=cheapest(contents.schedules) if contents.schedules else None,
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


def policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """Return a Content Security Policy under which those run and apply, and no others.

    Nothing can be fetched. Attributes may style, as plotly's do.
    """
    parts = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src-elem": " ".join(map(_hash, styles)),
        "style-src-attr": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def to_json(value: Any) -> str:
    """Return JSON that can stand in a script element: no sign in it can end one."""
    # ASCII alone: half pairs and line separators are spelled out, too.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


def _hash(text: str) -> str:
    digest = b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # no need of it to say what is wrong with a study

    # A browser reads any line's end as \n, and hashes what it has read.
    return re.sub(r"\r\n?", "\n", get_plotlyjs())


def _sheets(plotly: str) -> list[str]:
    """Return the ids of style sheets that plotly adds unless they are there: its maps'."""
    return re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly)


@cache
def _asset(*names: str) -> str:
    folder = files("study.report") / "assets"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("study.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "name": lambda text: visible(str(text)),
        "json": to_json,
        "percent": lambda share: f"{100 * share:.1f} %",
        "time": time_text,
        "stage_table": stage_table,
    }
    environment.filters |= filters
    environment.globals["count_text"] = count_text
    environment.globals["score_text"] = score_text
    return environment


def _fallback(contents: Contents, place: int) -> dict[str, Any]:
    """Say what is known of a photo from the database alone."""
    found = contents.predictions
    photo = contents.photos[place]
    if found is None:
        raise ValueError("a worst photo needs predictions")
    predicted = int(found.predicted[place])
    return {
        "path": photo.path,
        "label": contents.classes[photo.label],
        "predicted": contents.classes[predicted],
        "probability": float(found.confidence[place]),
        "wrong": predicted != photo.label,
    }
