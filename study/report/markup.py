"""Common parts of all pages: style, escaping of names, hashes of scripts and styles."""

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
    """Return a Content Security Policy that allows only these scripts and styles.

    Nothing can be fetched. Style attributes are allowed, as plotly needs them.
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
    """Return JSON that is safe in a script element: nothing in it can end the element."""
    # ASCII only: lone surrogates and line separators are escaped as well.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


@cache
def asset(*names: str) -> str:
    """Return some of our scripts or styles, concatenated."""
    folder = files(__package__) / "assets"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@cache
def environment() -> jinja2.Environment:
    """Return the environment of our templates: values are escaped, missing ones are errors."""
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
    """Write a page atomically: until it is complete, the previous one can be read."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with replacing(to) as beside:
        # A browser reads any line's end as \n, and hashes scripts as it reads them. A file's name
        # may hold bytes that are no text.
        beside.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _hash(text: str) -> str:
    digest = b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
