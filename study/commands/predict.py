"""The command that puts weights to work: predict."""

import sys
from typing import Annotated

import typer

from study.commands.console import (
    DEFAULT_STORAGE,
    Device,
    Json,
    Storage,
    Study,
    Weights,
    err,
    out,
    print_json,
)
from study.commands.exit_codes import FAILED

Inputs = Annotated[
    list[str],
    typer.Argument(help="Photos, folders, quoted patterns; - reads a path a line."),
]
Augment = Annotated[
    bool | None,
    typer.Option(help="Average over each photo and its mirror image; default: as validated."),
]
Csv = Annotated[bool, typer.Option("--csv", help="CSV on stdout, nothing else.")]


def predict(
    inputs: Inputs,
    weights: Weights = None,
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    device: Device = "auto",
    augment: Augment = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Name the class of photos, with the best weights of all runs."""
    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    if weights and study:
        raise typer.BadParameter("give --weights or --study, not both")

    from study.deployment.predict import predict as run
    from study.views.predictions import Tally, print_table, write_csv

    found = run(
        inputs, weights=weights, study=study, storage=storage, device=device, augment=augment
    )
    tally = Tally(err, found)
    if as_json:
        answers = list(tally.predictions())
        about = {"weights": found.weights, "classes": found.classes, "rule": found.rule}
        print_json({**about, "predictions": answers, "unreadable": tally.unreadable})
    elif as_csv:
        write_csv(sys.stdout, found.classes, tally.predictions())
    else:
        print_table(out, tally.predictions())
    tally.print_summary()
    if tally.unreadable:
        raise typer.Exit(FAILED)
