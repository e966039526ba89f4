"""What all pages share: one look, escaped names, scripts and styles listed by hash, whole files."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from study.formatting import count_text, time_text
from study.sanitizing import visible
from study.stage_text import stage_table
from trainers.files import replacing


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


@cache
def asset(*names: str) -> str:
    """Return scripts or styles of ours, one after the other."""
    folder = files(__package__) / "assets"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@cache
def environment() -> jinja2.Environment:
    """Return what renders our templates: every value is escaped, a missing one is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
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
    made.filters |= filters
    made.globals["count_text"] = count_text
    return made


def write_page(text: str, to: Path) -> None:
    """Write a page, whole or not at all: until it is whole, the one before it can be read."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with replacing(to) as beside:
        # A browser reads any line's end as \n, and hashes scripts as it reads them. A file's name
        # may hold bytes that are no text.
        beside.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _hash(text: str) -> str:
    digest = b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
