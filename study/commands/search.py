"""The commands that train: search, plan, repeat."""

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from study.commands.exit_codes import INTERRUPTED
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig

if TYPE_CHECKING:
    from study.searching.search import SearchOutcome


def search(
    grid: search_flags.Grid = None,
    data: search_flags.Data = None,
    trials: search_flags.Trials = None,
    budget: search_flags.Budget = None,
    study: search_flags.Study = None,
    config: search_flags.Config = None,
    storage: search_flags.Storage = None,
    vault: search_flags.Vault = None,
    data_root: search_flags.DataRoot = None,
    regroup: search_flags.Regroup = None,
    allow_leaks: search_flags.AllowLeaks = None,
    metric: search_flags.Metric = None,
    backbone: search_flags.Backbone = None,
    weights: search_flags.Weights = None,
    trainer: search_flags.Trainer = None,
    devices: search_flags.Devices = None,
    workers_per_device: search_flags.WorkersPerDevice = None,
    engine: search_flags.Engine = None,
    address: search_flags.Address = None,
    precision: search_flags.Precision = None,
    compile: search_flags.Compile = None,  # noqa: A002 - the flag's name is torch's
    deterministic: search_flags.Deterministic = None,
    cache_limit: search_flags.CacheLimit = None,
    strategy: search_flags.Strategy = None,
    eta: search_flags.Eta = None,
    timeout: search_flags.Timeout = None,
    until_flat: search_flags.UntilFlat = None,
    preset: search_flags.Preset = None,
    portfolio: search_flags.Portfolio = None,
    sampler: search_flags.Sampler = None,
    repeats: search_flags.Repeats = None,
    finalists: search_flags.Finalists = None,
    seed: search_flags.Seed = None,
    max_failures: search_flags.MaxFailures = None,
    max_retries: search_flags.MaxRetries = None,
    keep: search_flags.Keep = None,
    max_disk: search_flags.MaxDisk = None,
) -> None:
    """Search schedules; the same command again goes on where it was."""
    settings = _settings(locals())

    from study.searching.search import search as run
    from study.views.progress import SearchView

    with SearchView(err) as view:
        outcome = run(settings, listener=view)
    _conclude(outcome, settings.storage)


def plan(*, as_json: bool, **given: Any) -> None:
    """Estimate what a search with these flags would cost, without spending it."""
    settings = _settings(given)

    from study.searching.plan import plan as estimate
    from study.views.history import print_plan
    from study.views.progress import SearchView

    with SearchView(err) as view:
        found = estimate(settings, listener=view)
    if as_json:
        print_json({**asdict(found), "wall_seconds": found.wall_seconds})
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


def repeat(
    trial: TrialNumber,
    seeds: Annotated[int, typer.Option(min=2, help="Seeds in all, earlier ones included.")] = 5,
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Train a trial's schedule again under other seeds: how much of it was luck."""
    from study.searching.search import repeat as run
    from study.views.progress import SearchView

    with SearchView(err) as view:
        outcome = run(trial, seeds, study, storage=storage, listener=view)
    _conclude(outcome, storage)


def _conclude(outcome: "SearchOutcome", storage: str) -> None:
    """Say why a search left off, and what is best so far."""
    from study.budget import progress_text

    done = progress_text(outcome.ended, outcome.to_go, outcome.device_time)
    if outcome.stopped:
        err.print(f"stopped: {done}; run the same command again to go on", soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if outcome.spent:
        err.print(f"{outcome.spent}: {done}; the same command with more goes on", soft_wrap=True)
        if not outcome.ended:  # nothing has failed, and there is nothing yet to choose from
            return
    else:
        err.print(done, soft_wrap=True)
    from study.selection.best import best as choose
    from study.views.selection import print_summary

    print_summary(out, choose(outcome.study, storage=storage))
