"""The commands that train: search, plan, repeat."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.exit_codes import INTERRUPTED
from study.commands.parsing import argument, command, option, settings_options
from study.config.flags import Group
from study.config.loading import load_config, settings_of
from study.config.schema import Strategy, StudyConfig
from study.invocation import hint

if TYPE_CHECKING:
    from study.searching.search import SearchOutcome


def _settings_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the settings of `search` and `plan`: an option for each, and two files."""
    grid = argument(
        "grid",
        "TOML file of schedules, for --strategy grid.",
        metavar="[GRID]",
        required=False,
    )
    config = option(
        "--config",
        group=Group.SEARCH,
        type=Path,
        metavar="FILE",
        show_default="study.toml, if there is one",
        help="TOML file of settings; flags override it.",
    )
    return grid(settings_options(config(function)))


@command(
    "search",
    "encore search --data PHOTOS --trials 50",
    "encore search --data PHOTOS --budget 2h --devices 0,1",
    "encore search --data PHOTOS --trials 50 --repeats 3 --finalists 5",
)
@_settings_flags
def search(**given: Any) -> None:
    """Search schedules; the same command again continues the search.

    Without --data it searches on the handwritten digits of scikit-learn.
    """
    settings = _settings(given)

    with err.waiting("loading"):  # takes seconds
        from study.searching.search import search as run
        from study.views.progress import SearchView

    with SearchView(err) as view:
        outcome = run(settings, listener=view)
    _conclude(outcome, settings.storage)


@command(
    "plan",
    "encore plan --data PHOTOS --trials 50",
    "encore plan --data PHOTOS --budget 2h",
    "encore plan --data PHOTOS --trials 50 --devices cpu:2 --json",
)
@_settings_flags
@console.as_json
def plan(*, as_json: bool, **given: Any) -> None:
    """Estimate what a search would cost, without spending it."""
    settings = _settings(given)

    with err.waiting("loading"):
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
    """Merge the flags of `search` over the config file that they name, or `study.toml`."""
    grid, default = given["grid"], Path("study.toml")
    if grid and given["strategy"] != Strategy.GRID and not grid.endswith(".toml"):
        raise click.UsageError(f"photos are given with --data, as in --data {grid}")
    file = given["config"] or (default if default.exists() else None)
    return load_config(settings_of(**{k: v for k, v in given.items() if k != "config"}), file)


@command("repeat", "encore repeat 12", "encore repeat 12 --seeds 10")
@console.trial_number
@option(
    "--seeds",
    group=Group.BUDGET,
    type=click.IntRange(min=2),
    metavar="N",
    default=5,
    help="Number of seeds in all, earlier ones included.",
)
@console.study
@console.storage
def repeat(trial: int, seeds: int, study: str | None, storage: str) -> None:
    """Train a schedule under more seeds, to measure its variance."""
    with err.waiting("loading"):
        from study.searching.search import repeat as run
        from study.views.progress import SearchView

    with SearchView(err) as view:
        outcome = run(trial, seeds, study, storage=storage, listener=view)
    _conclude(outcome, storage)


def _conclude(outcome: "SearchOutcome", storage: str) -> None:
    """Print why a search stopped, and the best result so far."""
    from study.budget import progress_text

    done = progress_text(outcome.ended, outcome.to_go, outcome.device_time)
    if outcome.stopped:
        err.print(f"stopped: {done}; run the same command again to go on")
        raise click.exceptions.Exit(INTERRUPTED)
    if outcome.spent:
        more = "to go on, run the same command with more"
        err.print(f"{outcome.spent}: {done}; {more}")
        if not outcome.ended:  # nothing has failed, and there is nothing yet to choose from
            return
    else:
        err.print(done)
    from study.views.selection import print_summary

    with err.waiting("choosing the best weights"):
        from study.selection.best import best as choose

        chosen = choose(outcome.study, storage=storage)
    print_summary(out, chosen)
    where = () if storage == StudyConfig().storage else ("--storage", storage)
    for words in (("best",), ("report", "--open"), ("export", "--to", "exported")):
        err.print(f"next: {hint(*words, *where)}", markup=False, highlight=False, soft_wrap=True)
