"""What commands share: the console, and the options of all reading commands."""

import sys
from pathlib import Path
from typing import Any

from study.commands.parsing import argument, option
from study.config.flags import Group
from study.config.schema import StudyConfig
from study.formatting import json_text
from study.views.terminal import Terminal

out, err = Terminal(emoji=False), Terminal(emoji=False, stderr=True)

storage = option(
    "--storage",
    group=Group.STORAGE,
    metavar="URL",
    default=StudyConfig().storage,
    help="URL of the database that all studies are in.",
)
study = option(
    "--study",
    group=Group.STORAGE,
    metavar="NAME",
    show_default="the one used last",
    help="Name of a study, or the path of its data.",
)
as_json = option("--json", "as_json", is_flag=True, help="One JSON document, nothing else.")
trial_number = argument("trial", "The number of a trial, as `encore ls` lists them.", type=int)
weights = option(
    "--weights",
    group=Group.CHOICE,
    metavar="FILE",
    type=Path,
    show_default="the one that `encore best` names",
    help="Weights file.",
)
device = option(
    "--device",
    group=Group.DEVICES,
    metavar="DEVICE",
    default="auto",
    help="auto, cpu, cuda, cuda:1 or mps.",
)


def print_json(document: Any) -> None:
    """Print one JSON document and nothing else."""
    sys.stdout.write(json_text(document) + "\n")
