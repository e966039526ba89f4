"""The command line: parse, call one use case, print."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from study import flags
from study.config import StudyConfig, load_config, settings_of
from study.exits import FAILED, INTERRUPTED, exit_code, sentence
from study.views.document import json_text

if TYPE_CHECKING:
    from study.search import SearchOutcome

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
    grid: flags.Grid = None,
    data: flags.Data = None,
    trials: flags.Trials = None,
    study: flags.Study = None,
    config: flags.Config = None,
    storage: flags.Storage = None,
    data_root: flags.DataRoot = None,
    metric: flags.Metric = None,
    backbone: flags.Backbone = None,
    weights: flags.Weights = None,
    trainer: flags.Trainer = None,
    devices: flags.Devices = None,
    workers_per_device: flags.WorkersPerDevice = None,
    engine: flags.Engine = None,
    precision: flags.Precision = None,
    compile: flags.Compile = None,  # noqa: A002 - the flag's name is torch's
    deterministic: flags.Deterministic = None,
    cache_limit: flags.CacheLimit = None,
    strategy: flags.Strategy = None,
    eta: flags.Eta = None,
    timeout: flags.Timeout = None,
    max_gpu_hours: flags.MaxGpuHours = None,
    preset: flags.Preset = None,
    sampler: flags.Sampler = None,
    pruner: flags.Pruner = None,
    repeats: flags.Repeats = None,
    finalists: flags.Finalists = None,
    seed: flags.Seed = None,
    max_failures: flags.MaxFailures = None,
    max_retries: flags.MaxRetries = None,
    keep: flags.Keep = None,
    max_disk: flags.MaxDisk = None,
) -> None:
    """Search schedules; the same command again goes on where it was."""
    settings = _settings(locals())

    from study.search import search as run
    from study.views.live import SearchView

    with SearchView(err) as view:
        outcome = run(settings, listener=view)
    _conclude(outcome, settings.storage)


def plan(*, as_json: bool, **given: Any) -> None:
    """Estimate what a search with these flags would cost, without spending it."""
    settings = _settings(given)

    from study.planning import plan as estimate
    from study.views.live import SearchView
    from study.views.pages import print_plan

    with SearchView(err) as view:
        found = estimate(settings, listener=view)
    if as_json:
        _print_json({**asdict(found), "wall_seconds": found.wall_seconds})
    else:
        print_plan(out, found)


def _settings(given: dict[str, Any]) -> StudyConfig:
    """Resolve the flags of `search` over the config file that they name, or `study.toml`."""
    default = Path("study.toml")
    file = given["config"] or (default if default.exists() else None)
    return load_config(settings_of(**{k: v for k, v in given.items() if k != "config"}), file)


# `plan` has the flags of `search`, and one of its own.
_parameters = inspect.signature(search).parameters.values()
_as_json = inspect.Parameter(
    "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json
)
plan.__signature__ = inspect.Signature([*_parameters, _as_json])  # type: ignore[attr-defined]
plan.__annotations__ = {**search.__annotations__, "as_json": Json}
app.command()(plan)


@app.command()
def repeat(
    trial: Annotated[int, typer.Argument(help="Number of a trial, as `ls` lists them.")],
    seeds: Annotated[int, typer.Option(min=2, help="Seeds in all, earlier ones included.")] = 5,
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Train a trial's schedule again under other seeds: how much of it was luck."""
    from study.search import repeat as run
    from study.views.live import SearchView

    with SearchView(err) as view:
        outcome = run(trial, seeds, study, storage=storage, listener=view)
    _conclude(outcome, storage)


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
def tree(study: Study = None, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show the stage tree: what was trained once for whom, and who was stopped where."""
    from study.growth import show_tree
    from study.views.tree import print_tree

    shown = show_tree(study, storage=storage)
    if as_json:
        _print_json(shown)
    else:
        print_tree(out, shown)


@app.command()
def gc(
    study: Study = None,
    cache: Annotated[bool, typer.Option("--cache", help="Decoded photos instead.")] = False,
    keep: flags.Keep = None,
    max_disk: flags.MaxDisk = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """List weights that nobody needs any more; --delete deletes them."""
    from study.cleaning import cached, clean_weights, delete_cached
    from study.views.pages import print_cached, print_spare

    if cache:
        files = delete_cached(storage) if delete else cached(storage)
        if as_json:
            _print_json({"deleted": delete, "files": files})
        else:
            print_cached(out, files, deleted=delete)
        return
    cleaned = clean_weights(study, storage=storage, keep=keep, max_disk=max_disk, delete=delete)
    if as_json:
        _print_json(cleaned)
    else:
        print_spare(out, cleaned)


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
        known, message = exit_code(error), sentence(error)
        err.print("[red]error:[/] ", end="")
        err.print(message, markup=False, highlight=False, soft_wrap=True)
        return FAILED if known is None else known


def _conclude(outcome: "SearchOutcome", storage: str) -> None:
    """Say why a search left off, and what is best so far."""
    left = f"{outcome.ended} trials done, {outcome.to_go} to go"
    if outcome.stopped:
        err.print(f"stopped: {left}; run the same command again to go on")
        raise typer.Exit(INTERRUPTED)
    if outcome.spent:
        err.print(f"{outcome.spent}: {left}; the same command with more goes on")
    from study.selector import NothingToSelect
    from study.selector import best as choose
    from study.views.pages import print_summary

    try:
        print_summary(out, choose(outcome.study, storage=storage))
    except NothingToSelect as error:
        err.print(str(error), markup=False)


def _print_json(document: Any) -> None:
    sys.stdout.write(json_text(document) + "\n")


if __name__ == "__main__":
    main()
