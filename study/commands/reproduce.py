"""The command that says what made weights, and makes them again: reproduce."""

from dataclasses import asdict
from typing import Annotated

import typer

from study.commands.console import DEFAULT_STORAGE, Json, Storage, Study, err, out, print_json
from study.commands.exit_codes import FAILED


def reproduce(
    target: Annotated[str, typer.Argument(help="A trial's number, or a weights file.")],
    run: Annotated[bool, typer.Option("--run", help="Train it again and compare.")] = False,
    device: Annotated[str, typer.Option(help="Where; auto: the kind that made it.")] = "auto",
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Say what made a weights file and what has changed since; --run makes it again.

    Exit code 1 if other predictions come, or other weights though nothing has changed.
    """
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
        raise typer.Exit(FAILED)
