"""The command that shows how weights were made, and trains them again: reproduce."""

from dataclasses import asdict

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.exit_codes import FAILED
from study.commands.parsing import argument, command, option
from study.config.flags import Group


@command(
    "reproduce",
    "encore reproduce 12",
    "encore reproduce 12 --run",
    "encore reproduce chosen/acc98.61_....safetensors",
)
@argument("target", "A trial's number, or a weights file.", metavar="TRIAL|FILE")
@option("--run", group=Group.TRAINING, is_flag=True, help="Train it again and compare.")
@option(
    "--device",
    group=Group.DEVICES,
    metavar="DEVICE",
    default="auto",
    help="Device for that; auto: the kind it was trained on.",
)
@console.study
@console.storage
@console.as_json
def reproduce(
    target: str,
    run: bool,
    device: str,
    study: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Show how a weights file was made; --run trains it again.

    Exit code 1 if predictions differ, or if weights differ though nothing has changed.
    """
    with err.waiting("loading"):
        from study.provenance.reproduce import reproduce as make_again
        from study.provenance.reproduce import what_made
        from study.views.progress import SearchView
        from study.views.provenance import print_provenance, print_reproduction

    with SearchView(err) as view:
        if not run:
            made = what_made(target, study, storage=storage, device=device, listener=view)
        else:
            again = make_again(target, study, storage=storage, device=device, listener=view)
            made = again.provenance
    if not as_json:
        print_provenance(out, made)
        if run:
            print_reproduction(out, again)
    elif run:
        print_json({**asdict(again), "reproduced": again.reproduced})
    else:
        print_json(made)
    if run and not again.reproduced:
        raise click.exceptions.Exit(FAILED)
