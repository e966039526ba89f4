"""The commands about past runs: ls, show, tree, dashboard, doctor, gc."""

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.exit_codes import FAILED
from study.commands.parsing import command, option, setting_option
from study.config.flags import Group


@command("ls", "encore ls", "encore ls --study PHOTOS", "encore ls --json")
@console.study
@console.storage
@console.as_json
def ls(study: str | None, storage: str, as_json: bool) -> None:
    """List the trials of a study."""
    from study.history.trials import list_trials
    from study.views.history import print_trials

    listed = list_trials(study, storage=storage)
    if as_json:
        print_json(listed)
    else:
        print_trials(out, listed)


@command("show", "encore show 12", "encore show 12 --study PHOTOS", "encore show 12 --json")
@console.trial_number
@console.study
@console.storage
@console.as_json
def show(trial: int, study: str | None, storage: str, as_json: bool) -> None:
    """Show one trial: its curves, stages and files."""
    from study.history.trials import show_trial
    from study.views.history import print_trial

    view = show_trial(trial, study, storage=storage)
    if as_json:
        print_json(view)
    else:
        print_trial(out, view)


@command("dashboard", "encore dashboard", "encore dashboard --port 8081")
@option(
    "--port",
    type=click.IntRange(min=1, max=65535),
    metavar="PORT",
    default=8080,
    help="Port on 127.0.0.1.",
)
@console.storage
def dashboard(storage: str, port: int) -> None:
    """Serve Optuna's dashboard, for this machine alone."""
    from study.dashboard.serve import dashboard as serve

    serve(
        storage=storage, port=port, ready=lambda at: err.print(f"dashboard at {at} (Ctrl-C ends)")
    )


@command("doctor", "encore doctor", "encore doctor --json")
@console.storage
@console.as_json
def doctor(storage: str, as_json: bool) -> None:
    """Check machine, database and files, and suggest fixes."""
    from study.history.doctor import Level
    from study.history.doctor import doctor as examine
    from study.views.history import print_doctor

    with err.waiting("examining"):
        findings = examine(storage=storage)
    if as_json:
        print_json(findings)
    else:
        print_doctor(out, findings)
    if any(finding.level is Level.BAD for finding in findings):
        raise click.exceptions.Exit(FAILED)


@command("tree", "encore tree", "encore tree --study PHOTOS")
@console.study
@console.storage
@console.as_json
def tree(study: str | None, storage: str, as_json: bool) -> None:
    """Show the stage tree: which stages are shared, and where trials stopped."""
    from study.history.tree import show_tree
    from study.views.tree import print_tree

    shown = show_tree(study, storage=storage)
    if as_json:
        print_json(shown)
    else:
        print_tree(out, shown)


@command("gc", "encore gc", "encore gc --max-disk 20GB --delete", "encore gc --cache --delete")
@option("--cache", group=Group.CHOICE, is_flag=True, help="Cached photos instead.")
@option(
    "--strays",
    group=Group.CHOICE,
    is_flag=True,
    help="Files in the study's folder that no row points to.",
)
@setting_option("keep")
@setting_option("max_disk")
@console.study
@console.storage
@option("--delete", is_flag=True, help="Delete what is listed.")
@console.as_json
def gc(
    study: str | None,
    cache: bool,
    strays: bool,
    keep: str | None,
    max_disk: str | None,
    delete: bool,
    storage: str,
    as_json: bool,
) -> None:
    """List weights that are no longer needed; --delete deletes."""
    from study.history.caches import decoded_photos, fetched_photos, kept_references
    from study.history.cleanup import clean_strays, clean_weights, delete_cached
    from study.views.history import print_cached, print_spare

    if cache:
        files = (
            delete_cached(storage)
            if delete
            else [
                *decoded_photos(storage),
                *kept_references(storage),
                *fetched_photos(storage),
            ]
        )
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
