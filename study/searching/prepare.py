"""The common preparation of `search` and `plan`, before anything is written or trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from storage.errors import StudyNotFound
from storage.records import Role
from storage.store import Store
from study.config.costs import Costs
from study.config.presets import grid_schedules
from study.config.schema import Strategy, StudyConfig
from study.datasets.freeze import known_data, pass_gate, read_data
from study.engines.setup import Setup
from study.errors import ConfigError, NothingToSelect
from study.events import Listener
from study.searching.fitting import Fit, fitted_to, tried_first
from study.searching.forecasting import explorer_of
from study.searching.policy import Policy, SearchPolicy, SeedsPolicy, finalists
from study.searching.suggest import views_of
from study.studies import check_kind, find_study, refuse_old, refuse_several
from trainers.data.inspect.findings import Inspection
from trainers.data.manifest import Manifest
from trainers.labels import SEVERAL
from trainers.schedule import Balance, Loss, Schedule, Stage

LIKED = 3
"""How many schedules of another study are tried first: its best is among the best here."""

MakePolicy = Callable[[Fit, str], Policy]
"""Makes the policy, from the fitted settings and the name of the initial weights."""


@dataclass(frozen=True)
class Prepared:
    """Checked data and settings that fit them, the training set-up and the policy.

    `check` is what was found in the data; None if they were checked before.
    """

    setup: Setup
    fit: Fit
    manifest: Manifest
    check: Inspection | None
    policy: Policy


def check_settings(config: StudyConfig, make_policy: MakePolicy) -> Setup:
    """Check devices, weights and grid before a database is opened. Raises `ConfigError`."""
    setup = Setup(config)
    if setup.slots:  # devices first: the most frequent mistake
        make_policy(Fit(config), setup.weights)
    return setup


def prepare(
    setup: Setup,
    make_policy: MakePolicy,
    store: Store | None,
    listener: Listener,
    cache_folder: Path | None = None,
) -> Prepared:
    """Read the data, fit the settings to them, check the data; see `known_data`, `pass_gate`.

    Raises `DatasetError`, `StudyTooOld`, and for --like `StudyNotFound` and `NothingToSelect`.
    """
    config, slots, weights = setup.config, setup.slots, setup.weights
    known = known_data(config, store)
    if known.study is not None:
        refuse_old(known.study)
    liked = _liked(config, store)
    manifest = read_data(config, known, listener)
    _check_labels(config, manifest)
    fitted = replace(fitted_to(config, manifest, slots, known.study), liked=liked)
    looks = views(make_policy(fitted, weights))
    frozen = pass_gate(config, known, manifest, listener, cache_folder, looks)
    # The split may have changed, to keep copies together.
    fitted = replace(fitted_to(config, frozen.manifest, slots, known.study), liked=liked)
    policy = make_policy(fitted, weights)
    _check_stages(policy, frozen.manifest)
    return Prepared(setup, fitted, frozen.manifest, frozen.check, policy)


def _check_labels(config: StudyConfig, manifest: Manifest) -> None:
    """Raise `ConfigError` for settings that say nothing of such labels."""
    check_kind(manifest, config.metric)
    if config.costs != Costs():
        refuse_several(manifest, "[costs]")


def _check_stages(policy: Policy, manifest: Manifest) -> None:
    """Raise `ConfigError` for stages that cannot be trained on such labels."""
    if not isinstance(policy, SearchPolicy):
        return
    given = [stage for schedule in policy.given for stage in schedule.stages]
    space = policy.config.resolved_space
    choices = [space.of_stage(position) for position in range(max(space.n_stages))]
    balances = {stage.balance for stage in given}.union(*(c.get("balance", ()) for c in choices))
    losses = {stage.loss for stage in given}.union(*(c.get("loss", ()) for c in choices))
    if balances - {Balance.NONE}:
        refuse_several(manifest, "balance")
    if manifest.kind is not SEVERAL and losses - {Loss.ENTROPY}:
        raise ConfigError(
            f"loss {Loss.ASYMMETRIC}: only for photos of several labels each, and these have one "
            f"{manifest.kind.name}; leave it away"
        )


def _liked(config: StudyConfig, store: Store | None) -> tuple[Schedule, ...]:
    """Return the best schedules of the study given with --like."""
    if config.like is None:
        return ()
    if store is None:
        raise StudyNotFound(f"there is no database yet, so no study {config.like!r}; drop --like")
    study = find_study(store, config.like)
    exploring = [trial for trial in store.trials(study.id) if trial.role is not Role.REPEAT]
    found = finalists(exploring, study.metric, LIKED)
    if not found:
        raise NothingToSelect(
            f"study {study.name!r} of --like has no complete trial; let its search run on, or "
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
    """Return stages with every size and crop that a search may use, the first ones first."""
    if isinstance(policy, SeedsPolicy):
        return list(policy.of.schedule.stages)
    if not isinstance(policy, SearchPolicy) or policy.config.trainer:
        return []
    given = [stage for schedule in policy.given for stage in schedule.stages]
    if policy.config.strategy is Strategy.GRID:
        return given
    return given + views_of(policy.config.resolved_space)
