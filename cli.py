"""The command line: parse, call one use case, print."""

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from storage.errors import DatabaseTooNew, DatabaseUnusable, StudyInUse, StudyNotFound
from study.config import ConfigError, Preset, Pruner, Sampler, StudyConfig, load_config, settings_of
from trainers.base import Precision
from trainers.metrics import Metric

FAILED, MISUSE, TOO_MANY_FAILURES, DATA_REFUSED, NOTHING_TO_SELECT, INTERRUPTED = 1, 2, 3, 4, 5, 130

app = typer.Typer(
    name="encore",
    help="Run it again, keep the best: search training-loop schedules for image classification.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    epilog="--debug shows the traceback of an error.",
)
out, err = Console(emoji=False), Console(emoji=False, stderr=True)

Storage = Annotated[str, typer.Option(help="Database URL, for Optuna and us.", show_default=True)]
Study = Annotated[str | None, typer.Option(help="Study name; default: the one used last.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
DEFAULT_STORAGE = StudyConfig().storage


@app.command()
def search(
    data: Annotated[
        str | None, typer.Option(help="Folder or CSV of photos; default: handwritten digits.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all, earlier ones included.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Study name; default: the data's.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file; default: study.toml, if there is one.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help=f"Database URL; default: {DEFAULT_STORAGE}.")
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="Folder that a CSV's paths start from.")
    ] = None,
    metric: Annotated[Metric | None, typer.Option(help="What decides which is best.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Name of a timm model.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="What the backbone starts from: a file, or 'random'.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda, mps, cpu, cuda:1, ...")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Numbers to compute with; auto: by the device.")
    ] = None,
    compile: Annotated[  # noqa: A002 - the flag's name is torch's
        bool | None, typer.Option("--compile", help="Pass networks through torch.compile.")
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="Repeat to the last bit, on a GPU too.")
    ] = None,
    cache_limit: Annotated[
        str | None, typer.Option(help="Disk for decoded photos, as 20GB; default: half the free.")
    ] = None,
    preset: Annotated[Preset | None, typer.Option(help="A schedule to try first.")] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="Who suggests schedules.")] = None,
    pruner: Annotated[Pruner | None, typer.Option(help="Who stops trials early.")] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Fresh seeds for each finalist after the search.")
    ] = None,
    finalists: Annotated[int | None, typer.Option(help="Best schedules to repeat.")] = None,
    seed: Annotated[int | None, typer.Option(help="Common seed of the exploration.")] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="Failed trials in a row that end the search.")
    ] = None,
) -> None:
    """Search schedules; the same command again goes on where it was."""
    flags = {**locals()}
    file = flags.pop("config") or (Path("study.toml") if Path("study.toml").exists() else None)
    settings = load_config(settings_of(**flags), file)

    from study.search import search as run
    from study.views.live import SearchView

    with SearchView(err) as view:
        outcome = run(settings, listener=view)
    if outcome.stopped:
        err.print(
            f"stopped: {outcome.ended} trials done, {outcome.to_go} to go; "
            "run the same command again to go on"
        )
        raise typer.Exit(INTERRUPTED)
    _summary(outcome.study, settings.storage)


@app.command()
def best(
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    copy_to: Annotated[Path | None, typer.Option(help="Copy the weights into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Print the best weights of all runs, and what is known of them."""
    from study.selector import best as choose
    from study.selector import copy_weights
    from study.views.pages import print_best

    chosen = choose(study, storage=storage)
    copied = copy_weights(chosen, copy_to) if copy_to else None
    if as_json:
        _print_json({**asdict(chosen), **({"copied_to": str(copied)} if copied else {})})
        return
    print_best(out, chosen)
    if copied:
        out.print(f"copied to {copied}", markup=False, soft_wrap=True)


@app.command()
def ls(study: Study = None, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """List the trials of a study."""
    from study.listing import list_trials
    from study.views.pages import print_trials

    listed = list_trials(study, storage=storage)
    if as_json:
        _print_json(listed)
    else:
        print_trials(out, listed)


@app.command()
def show(
    trial: Annotated[int, typer.Argument(help="Number of a trial, as `ls` lists them.")],
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show one trial: its curves, stages and files."""
    from study.listing import show_trial
    from study.views.pages import print_trial

    view = show_trial(trial, study, storage=storage)
    if as_json:
        _print_json(view)
    else:
        print_trial(out, view)


@app.command()
def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
) -> None:
    """Open Optuna's dashboard on the database, for this machine alone."""
    from study.dashboard import dashboard as serve

    serve(
        storage=storage, port=port, ready=lambda at: err.print(f"dashboard at {at} (Ctrl-C ends)")
    )


@app.command()
def doctor(storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Check the machine, the database and all files, and say what to do."""
    from study.doctor import Level
    from study.doctor import doctor as examine
    from study.views.pages import print_doctor

    findings = examine(storage=storage)
    if as_json:
        _print_json(findings)
    else:
        print_doctor(out, findings)
    if any(finding.level is Level.BAD for finding in findings):
        raise typer.Exit(FAILED)


@app.command()
def gc(
    cache: Annotated[bool, typer.Option("--cache", help="Decoded photos.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """List what can be deleted because it can be made again; --delete deletes it."""
    from study.cleaning import cached, delete_cached
    from study.views.pages import print_cached

    if not cache:
        raise ConfigError("gc must be told what to look at; give --cache")
    files = delete_cached(storage) if delete else cached(storage)
    if as_json:
        _print_json({"deleted": delete, "files": files})
    else:
        print_cached(out, files, deleted=delete)


def main() -> None:
    """Run the command line and exit; errors become one line on stderr and an exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, stream=sys.stderr)
    # Odd tags in somebody's photos are no news to the person who searches.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    sys.exit(run([argument for argument in arguments if argument != "--debug"], debug=debug))


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run one command and give its exit code."""
    try:
        code = typer.main.get_command(app).main(
            list(arguments), prog_name="encore", standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # `encore ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        err.print("stopped")
        return INTERRUPTED
    except typer.Exit as exit_:
        return exit_.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback without --debug
        if debug:
            err.print_exception()
        known, message = _exit_code(error), _sentence(error)
        err.print("[red]error:[/] ", end="")
        err.print(message, markup=False, highlight=False, soft_wrap=True)
        return FAILED if known is None else known


def _exit_code(error: Exception) -> int | None:
    """Give the exit code of an error that a user can act on; None for a bug of ours."""
    # By name: the modules that hold some of these classes take seconds to import.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"ClickException", "ConfigError"}:
        return MISUSE
    if "TooManyFailures" in names:
        return TOO_MANY_FAILURES
    if "DatasetError" in names:
        return DATA_REFUSED
    if "NothingToSelect" in names:
        return NOTHING_TO_SELECT
    ours = (StudyInUse, StudyNotFound, DatabaseUnusable, DatabaseTooNew, ConfigError)
    if isinstance(error, (*ours, LookupError, OSError)) or "WeightsUnavailable" in names:
        return FAILED
    return None


def _sentence(error: Exception) -> str:
    """Say in one sentence what is wrong and what to do."""
    if hasattr(error, "format_message"):  # the parser's own, of click or of Typer's copy of it
        return str(error.format_message())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left on the disk; make room and run the same command again: it goes on"
    if _exit_code(error) is None:
        return f"unexpected {type(error).__name__}: {error}; --debug shows where"
    return str(error)


def _summary(study: str, storage: str) -> None:
    from study.selector import NothingToSelect
    from study.selector import best as choose

    try:
        chosen = choose(study, storage=storage)
    except NothingToSelect as error:
        err.print(str(error), markup=False)
        return
    from study.naming import score_text

    out.print(
        f"best: {chosen.metric} {score_text(chosen.metric, chosen.score)}, "
        f"{chosen.errors} errors on {chosen.n_valid} photos: {chosen.file}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _print_json(document: Any) -> None:
    text = json.dumps(document, default=_plain, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"value must be plain, a record or a time, got {type(value).__name__}")


if __name__ == "__main__":
    main()
