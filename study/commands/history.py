"""The commands that look after what was run: ls, show, tree, dashboard, doctor, gc."""

from typing import Annotated

import typer

from study.commands import search_flags
from study.commands.console import (
    DEFAULT_STORAGE,
    Json,
    Storage,
    Study,
    TrialNumber,
    err,
    out,
    print_json,
)
from study.commands.exit_codes import FAILED


def ls(study: Study = None, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """List the trials of a study."""
    from study.history.trials import list_trials
    from study.views.history import print_trials

    listed = list_trials(study, storage=storage)
    if as_json:
        print_json(listed)
    else:
        print_trials(out, listed)


def show(
    trial: TrialNumber,
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show one trial: its curves, stages and files."""
    from study.history.trials import show_trial
    from study.views.history import print_trial

    view = show_trial(trial, study, storage=storage)
    if as_json:
        print_json(view)
    else:
        print_trial(out, view)


def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
) -> None:
    """Open Optuna's dashboard on the database, for this machine alone."""
    from study.dashboard.serve import dashboard as serve

    serve(
        storage=storage, port=port, ready=lambda at: err.print(f"dashboard at {at} (Ctrl-C ends)")
    )


def doctor(storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Check the machine, the database and all files, and say what to do."""
    from study.history.doctor import Level
    from study.history.doctor import doctor as examine
    from study.views.history import print_doctor

    findings = examine(storage=storage)
    if as_json:
        print_json(findings)
    else:
        print_doctor(out, findings)
    if any(finding.level is Level.BAD for finding in findings):
        raise typer.Exit(FAILED)


def tree(study: Study = None, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show the stage tree: what was trained once for whom, and who was stopped where."""
    from study.history.tree import show_tree
    from study.views.tree import print_tree

    shown = show_tree(study, storage=storage)
    if as_json:
        print_json(shown)
    else:
        print_tree(out, shown)


def gc(
    study: Study = None,
    cache: Annotated[bool, typer.Option("--cache", help="Cached photos instead.")] = False,
    strays: Annotated[
        bool, typer.Option("--strays", help="Files in the study's folder that no row points to.")
    ] = False,
    keep: search_flags.Keep = None,
    max_disk: search_flags.MaxDisk = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """List weights that nobody needs any more; --delete deletes them."""
    from study.history.cleanup import clean_strays, clean_weights, decoded, delete_cached, fetched
    from study.views.history import print_cached, print_spare

    if cache:
        files = delete_cached(storage) if delete else [*decoded(storage), *fetched(storage)]
        if as_json:
            print_json({"deleted": delete, "files": files})
        else:
            print_cached(out, files, deleted=delete)
        return
    if strays:
        cleaned = clean_strays(study, storage=storage, delete=delete)
    else:
        cleaned = clean_weights(study, storage=storage, keep=keep, max_disk=max_disk, delete=delete)
    if as_json:
        print_json(cleaned)
    else:
        print_spare(out, cleaned)
