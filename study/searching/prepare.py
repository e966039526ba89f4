"""What a search and its plan set up alike, before anything is written or trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from storage.errors import StudyNotFound
from storage.records import Role
from storage.store import Store
from study.config.presets import grid_schedules
from study.config.schema import Strategy, StudyConfig
from study.datasets.freeze import known_data, pass_gate, read_data
from study.engines.setup import Setup
from study.errors import NothingToSelect
from study.events import Listener
from study.searching.fitting import Fit, fitted_to, tried_first
from study.searching.forecasting import explorer_of
from study.searching.policy import Policy, SearchPolicy, SeedsPolicy, finalists
from study.searching.suggest import views_of
from study.studies import find_study, refuse_old
from trainers.data.inspect.findings import Inspection
from trainers.data.manifest import Manifest
from trainers.schedule import Schedule, Stage

LIKED = 3
"""So many schedules of another study are tried first: what is best elsewhere is one of the best."""

MakePolicy = Callable[[Fit, str], Policy]
"""Makes what decides, of what fits the data and of the weights that schedules start from."""


@dataclass(frozen=True)
class Prepared:
    """Data that may be searched on and settings that fit them, what trains and what decides.

    `check` is what was found in the data; None where they had been looked over before.
    """

    setup: Setup
    fit: Fit
    manifest: Manifest
    check: Inspection | None
    policy: Policy


def check_settings(config: StudyConfig, make_policy: MakePolicy) -> Setup:
    """Check devices, weights and grid before a database is opened. Raises `ConfigError`."""
    setup = Setup(config)
    if setup.slots:  # devices first: they are what is mistaken most
        make_policy(Fit(config), setup.weights)
    return setup


def prepare(
    setup: Setup,
    make_policy: MakePolicy,
    store: Store | None,
    listener: Listener,
    cache_folder: Path | None = None,
) -> Prepared:
    """Read the data, fit the settings to them, look the data over; see `known_data`, `pass_gate`.

    Raises `DatasetError`, `StudyTooOld`, and for what a search is to be like `StudyNotFound` and
    `NothingToSelect`.
    """
    config, slots, weights = setup.config, setup.slots, setup.weights
    known = known_data(config, store)
    if known.study is not None:
        refuse_old(known.study)
    liked = _liked(config, store)
    manifest = read_data(config, known, listener)
    fitted = replace(fitted_to(config, manifest, slots, known.study), liked=liked)
    looks = views(make_policy(fitted, weights))
    frozen = pass_gate(config, known, manifest, listener, cache_folder, looks)
    # Copies may be together now.
    fitted = replace(fitted_to(config, frozen.manifest, slots, known.study), liked=liked)
    return Prepared(setup, fitted, frozen.manifest, frozen.check, make_policy(fitted, weights))


def _liked(config: StudyConfig, store: Store | None) -> tuple[Schedule, ...]:
    """Return the best schedules of the study that a search is to be like."""
    if config.like is None:
        return ()
    if store is None:
        raise StudyNotFound(f"there is no database yet, so no study {config.like!r}; drop --like")
    study = find_study(store, config.like)
    exploring = [trial for trial in store.trials(study.id) if trial.role is not Role.REPEAT]
    found = finalists(exploring, study.metric, LIKED)
    if not found:
        raise NothingToSelect(
            f"no trial of study {study.name!r} is complete, to be liked; let its search run on, or "
            "drop --like"
        )
    return tuple(trial.schedule for trial in found)


def search_policy(fit: Fit, weights: str) -> SearchPolicy:
    """Return the policy of a search: with the schedules of its grid, or those that fit the data."""
    config = fit.config
    if config.grid is not None:
        backbone = config.resolved_space.backbone[0]
        given = grid_schedules(Path(config.grid), backbone, weights)
    else:
        given = tried_first(fit, weights)
    explorer = explorer_of(config, weights, fit.facts.training)
    return SearchPolicy(config, explorer, given)


def views(policy: Policy) -> list[Stage]:
    """Return stages that look at photos in every way that a search may, the first ones first."""
    if isinstance(policy, SeedsPolicy):
        return list(policy.of.schedule.stages)
    if not isinstance(policy, SearchPolicy) or policy.config.trainer:
        return []
    given = [stage for schedule in policy.given for stage in schedule.stages]
    if policy.config.strategy is Strategy.GRID:
        return given
    return given + views_of(policy.config.resolved_space)
