"""The command that shows which areas of a photo the network used: explain."""

from dataclasses import asdict
from pathlib import Path

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.parsing import argument, command, option
from study.config.flags import Group


@command(
    "explain", "encore explain", "encore explain photo.jpg", "encore explain PHOTOS --class rose"
)
@argument(
    "inputs",
    "Photos, folders, quoted patterns; without any, the validation photos.",
    metavar="[PHOTO]...",
    nargs=-1,
)
@console.weights
@option(
    "--class",
    "target",
    group=Group.CHOICE,
    metavar="NAME",
    show_default="the predicted one",
    help="Explain this class.",
)
@console.device
@console.study
@console.storage
@option(
    "--to",
    type=Path,
    metavar="DIR",
    default=Path("explained"),
    help="Folder that the pictures go to.",
)
@option(
    "--top",
    type=click.IntRange(min=1, max=100),
    metavar="N",
    default=24,
    help="How many photos to show, worst first.",
)
@console.as_json
def explain(
    inputs: tuple[str, ...],
    to: Path,
    weights: Path | None,
    study: str | None,
    storage: str,
    top: int,
    target: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Show which areas the network used (Grad-CAM), worst errors first."""
    if weights and study:
        raise click.UsageError("give --weights or --study, not both")

    from study.sanitizing import visible

    with err.waiting("looking at photos"):
        from study.deployment.explain import explain as run

        explained = run(
            inputs,
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
