"""The command line: parse, call one use case, print."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from study.config import (
    EngineKind,
    Preset,
    Pruner,
    Sampler,
    Strategy,
    StudyConfig,
    load_config,
    settings_of,
)
from study.exits import FAILED, INTERRUPTED, exit_code, sentence
from trainers.base import Precision
from trainers.metrics import Metric

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
    grid: Annotated[
        Path | None, typer.Argument(help="TOML file of schedules, for --strategy grid.")
    ] = None,
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
    trainer: Annotated[
        str | None, typer.Option(help="A class of your own, package.module:Class.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="auto (all GPUs), 0,1 or cuda:1 or mps or cpu:2.")
    ] = None,
    workers_per_device: Annotated[
        int | None, typer.Option(help="Trials that share a device.")
    ] = None,
    engine: Annotated[
        EngineKind | None, typer.Option(help="auto: processes if there are several slots.")
    ] = None,
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
    strategy: Annotated[
        Strategy | None, typer.Option(help="Which schedules are tried, and trained to the end.")
    ] = None,
    eta: Annotated[
        int | None, typer.Option(help="At a stage boundary, the best 1/eta go on.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Leave off after that long, as 8h.")] = None,
    max_gpu_hours: Annotated[
        float | None, typer.Option(help="Leave off after so many device hours in all.")
    ] = None,
    preset: Annotated[Preset | None, typer.Option(help="A schedule to try first.")] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="Who suggests schedules.")] = None,
    pruner: Annotated[Pruner | None, typer.Option(help="Who stops trials early.")] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Fresh seeds at most for each finalist; they race.")
    ] = None,
    finalists: Annotated[int | None, typer.Option(help="Best schedules to repeat.")] = None,
    seed: Annotated[int | None, typer.Option(help="Common seed of the exploration.")] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="Failed trials in a row that end the search.")
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option(help="Tries more for a stage whose worker died.")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Trials whose weights are kept.")] = None,
    max_disk: Annotated[
        str | None, typer.Option(help="Disk for all weights of the study, as 20GB.")
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
    _conclude(outcome, settings.storage)


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
    keep: Annotated[int | None, typer.Option(min=1, help="Trials whose weights are kept.")] = None,
    max_disk: Annotated[
        str | None, typer.Option(help="Disk for all weights of the study, as 20GB.")
    ] = None,
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
    _summary(outcome.study, storage)


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
