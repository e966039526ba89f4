"""The command that shows what the network went by: explain."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from study.commands.console import (
    DEFAULT_STORAGE,
    Device,
    Json,
    Storage,
    Study,
    Weights,
    out,
    print_json,
)

Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Photos, folders, quoted patterns; default: the validation photos."),
]
To = Annotated[Path, typer.Option(help="Folder that the pictures go to.")]
Top = Annotated[int, typer.Option(min=1, max=100, help="How many photos, worst first.")]
Class = Annotated[
    str | None,
    typer.Option("--class", metavar="NAME", help="Explain this class; default: the predicted."),
]


def explain(
    inputs: Inputs = None,
    to: To = Path("explained"),
    weights: Weights = None,
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    top: Top = 24,
    target: Class = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show which area of each photo the network went by, the worst mistakes first."""
    if weights and study:
        raise typer.BadParameter("give --weights or --study, not both")

    from study.deployment.explain import explain as run
    from study.printable import visible

    explained = run(
        inputs or (),
        weights=weights,
        study=study,
        storage=storage,
        to=to,
        limit=top,
        target=target,
        device=device,
    )
    if as_json:
        print_json(asdict(explained))
        return
    out.print(explained.sheet, markup=False, highlight=False, soft_wrap=True)
    for photo in explained.photos:
        line = visible(f"{photo.path}: {photo.verdict}")
        out.print(line, markup=False, highlight=False, soft_wrap=True)
