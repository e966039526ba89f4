"""What commands share: where they print, and the flags of all that read."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from study.config.schema import StudyConfig
from study.formatting import json_text
from study.views.terminal import Terminal

out, err = Terminal(emoji=False), Terminal(emoji=False, stderr=True)

Storage = Annotated[str, typer.Option(help="Database URL, for Optuna and us.", show_default=True)]
Study = Annotated[str | None, typer.Option(help="Study name; default: the one used last.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
TrialNumber = Annotated[int, typer.Argument(help="Number of a trial, as `ls` lists them.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weights file; default: the one `best` names.", metavar="FILE")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
DEFAULT_STORAGE = StudyConfig().storage


def print_json(document: Any) -> None:
    """Print one JSON document and nothing else."""
    sys.stdout.write(json_text(document) + "\n")
