"""Use cases `search` and `repeat`: wire the parts, run the coordinator."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.database import open_database
from storage.folders import settle
from storage.ownership import Claim, fenced
from storage.paths import CACHE, open_vault, runs_folder
from storage.records import StudyRecord
from storage.remote import GIVE_UP_AFTER, Remote
from storage.retry import Patience
from storage.store import Store, open_store
from study.budget import DeviceTime
from study.config.loading import load_config, settings_of
from study.config.presets import grid_schedules
from study.config.schema import Strategy, StudyConfig
from study.datasets.freeze import describe_data, keep_check, known_data, pass_gate, read_data
from study.engines.setup import check_backbones, choose_slots, choose_weights, make_engine, recipe
from study.events import Listener, SearchStarted, noticing, telling
from study.formatting import count_text
from study.invocation import searched_by
from study.searching.coordinator import Coordinator
from study.searching.fitting import Fit, fit, tried_first
from study.searching.forecasting import explorer_of
from study.searching.ownership import Ownership
from study.searching.policy import Policy, SearchPolicy, SeedsPolicy
from study.searching.signals import interruption
from study.searching.suggest import may_move_a_probe, moves_a_probe, views_of
from study.searching.time_left import TimeLeft
from study.studies import (
    find_study,
    find_trial,
    keep_manifest,
    open_study,
    plain_config,
    refuse_old,
    stored_config,
)
from trainers.data.manifest import Manifest, Split
from trainers.schedule import Stage

if TYPE_CHECKING:
    from study.searching.optuna_study import Suggestions

CHECK_WITHIN = 3.0
"""Seconds that a vault has to answer when a search begins: nothing would be lost yet."""


@dataclass(frozen=True)
class SearchOutcome:
    """What a search left: the study's trials that have ended, those to go, and what all took.

    `to_go` is None where not a number of trials ends the search. `stopped` says that the user
    stopped it, `spent` which part of the budget ended it, if it was not the number of trials.
    """

    study: str
    ended: int
    to_go: int | None
    device_time: DeviceTime
    stopped: bool
    spent: str | None = None


def search(
    config: StudyConfig | None = None,
    *,
    listener: Listener = lambda _: None,
    **settings: Any,
) -> SearchOutcome:
    """Search schedules until the budget is spent; the same call again goes on where it was.

    Give a `StudyConfig`, or settings by the names of the command line's flags: data, trials,
    budget, study, storage, metric, repeats, finalists, ... `listener` is told what happens. Raises
    `ConfigError`, `DatasetError`, `StudyInUse`, `WeightsUnavailable`, `TooManyFailures` and the
    database's errors; nothing is written before data and settings have been checked.
    """
    config = config or load_config(settings_of(**settings))
    return run_search(config, listener, search_policy)


def repeat(
    number: int,
    seeds: int,
    study: str | None = None,
    *,
    storage: str = StudyConfig().storage,
    listener: Listener = lambda _: None,
) -> SearchOutcome:
    """Train a trial's schedule until it was trained under `seeds` seeds, earlier ones included.

    The study's own settings hold. Raises what `search` does, LookupError for an unknown trial.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        of = find_trial(store, record, number)
    config = stored_config(record, storage)
    return run_search(config, listener, lambda *_: SeedsPolicy(of, seeds, config))


def run_search(
    config: StudyConfig, listener: Listener, policy: Callable[[Fit, str], Policy]
) -> SearchOutcome:
    """Wire the parts and run the coordinator. `policy` gets what fits the data, and weights."""
    deadline = time.monotonic() + (config.budget.timeout or math.inf)
    say = noticing(listener)
    if config.vault is not None:
        Remote(config.vault, give_up_after=CHECK_WITHIN).check()
    slots, weights = choose_slots(config), choose_weights(config)
    policy(Fit(config), weights)  # a grid is read before the data are
    known = known_data(config)
    if known.study is not None:
        refuse_old(known.study)
    manifest, asked = read_data(config, known, listener), config
    cache_folder = runs_folder(config.storage) / CACHE
    looks = _views(policy(fit(asked, manifest, slots, known.study), weights))
    frozen = pass_gate(config, known, manifest, listener, cache_folder, looks)
    manifest = frozen.manifest  # copies may have been brought together
    fitted = fit(asked, manifest, slots, known.study)
    config, decide = fitted.config, policy(fitted, weights)
    views = _views(decide)
    made = recipe(config, manifest, cache_folder, searched_by())
    _warn_of_moving(fitted, decide, check_backbones(config, made, weights), say)
    database = open_database(config.storage)
    try:
        study = open_study(Store(database), config, manifest)
        if frozen.check is not None:
            keep_check(Store(database), frozen.check)
        with (
            Ownership(Store(database), study.id, say) as ownership,
            closing(make_engine(config, made, slots, say)) as engine,
        ):
            interrupted = threading.Event()
            patience = Patience(say, interrupted, ownership.confirm)
            store = Store(fenced(database, ownership.claim), patience)
            study = settle(store, config.storage, study, say)
            store.update_config(study.id, {**study.config, **plain_config(config)})
            keep_manifest(store, manifest)
            coordinator = Coordinator(
                study=study,
                labels=manifest.labels(Split.VALID),
                config=config,
                weights=weights,
                policy=decide,
                store=store,
                vault=open_vault(
                    config.storage,
                    study,
                    owner=ownership.claim.token,
                    give_up_after=GIVE_UP_AFTER,
                    say=say,
                ),
                suggestions=make_suggestions(config, patience, ownership.claim),
                engine=engine,
                listener=listener,
                stop=lambda: bool(
                    interrupted.is_set() or ownership.lost or time.monotonic() >= deadline
                ),
            )
            given = decide.given if isinstance(decide, SearchPolicy) else ()
            training = len(manifest.of_split(Split.TRAIN))
            coordinator.time_left = TimeLeft(config, training, engine.slots, given, deadline)
            _started(store, study, config, manifest, coordinator, listener)
            # Before there is a trial, there is nothing to finish: one signal stops at once.
            made.prepare(views, telling(listener, "decoding photos"), say)
            with interruption(interrupted, say):
                coordinator.run()
            if ownership.lost:
                raise ownership.lost
            standing, device_time = coordinator.standing, coordinator.device_time
            to_go, spent = decide.to_go(standing), _spent(device_time, deadline)
            if spent is None and not interrupted.is_set() and decide.is_flat(standing):
                spent = "as much time again is expected to bring less than validation could show"
            return SearchOutcome(
                study=config.study_name,
                ended=coordinator.ended,
                to_go=to_go,
                device_time=device_time,
                stopped=interrupted.is_set(),
                spent=spent if to_go != 0 else None,
            )
    finally:
        database.dispose()


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


def _warn_of_moving(
    fit: Fit, policy: Policy, backbones: Sequence[str], say: Callable[[str], None]
) -> None:
    """Warn where the user has a probe's head trained on features that BatchNorm moves away."""
    if not backbones or not isinstance(policy, SearchPolicy):
        return
    if fit.config.strategy is Strategy.GRID:
        moves = any(moves_a_probe(s) for s in policy.given if s.backbone in backbones)
    else:
        moves = fit.own and may_move_a_probe(fit.config.resolved_space)
    if moves:
        say(
            f"stages start from a probe's head while BatchNorm moves the features it was fitted on "
            f'({", ".join(backbones)}): give the stages after a probe batch_norm = "frozen"'
        )


def _spent(device_time: DeviceTime, deadline: float) -> str | None:
    """Say which part of the budget is spent, if one is."""
    if device_time.spent:
        return "the device time of --budget is spent"
    return "the time of --timeout is over" if time.monotonic() >= deadline else None


def _views(policy: Policy) -> list[Stage]:
    """Return stages that look at photos in every way that a search may, the first ones first."""
    if isinstance(policy, SeedsPolicy):
        return list(policy.of.schedule.stages)
    if not isinstance(policy, SearchPolicy) or policy.config.trainer:
        return []
    given = [stage for schedule in policy.given for stage in schedule.stages]
    if policy.config.strategy is Strategy.GRID:
        return given
    return given + views_of(policy.config.resolved_space)


def _goal(policy: Policy) -> str:
    """Say which trials are counted as those to go."""
    if isinstance(policy, SeedsPolicy):
        return f"those there are, and so many that #{policy.of.number} has {policy.seeds} seeds"
    if not isinstance(policy, SearchPolicy) or policy.config.budget.trials is None:
        return ""
    seeds = policy.config.seeds
    races = f"{count_text(seeds.repeats, 'repeat')} each of the best {seeds.finalists}"
    grid = policy.config.strategy is Strategy.GRID
    trials = len(policy.given) if grid else policy.config.budget.trials
    return f"{trials:,}" + (f", and at most {races}" if seeds.repeats else "")


def _started(
    store: Store,
    study: StudyRecord,
    config: StudyConfig,
    manifest: Manifest,
    coordinator: Coordinator,
    listener: Listener,
) -> None:
    ranking = store.ranking(study)
    listener(
        SearchStarted(
            study=study.name,
            metric=study.metric,
            data=describe_data(config, manifest),
            done=coordinator.ended,
            to_go=coordinator.policy.to_go(coordinator.standing),
            device_time=coordinator.device_time,
            best_score=ranking[0].trial.score if ranking else None,
            left_out=manifest.left_out,
            goal=_goal(coordinator.policy),
            photos=len(manifest.of_split(Split.VALID)),
        )
    )


def make_suggestions(
    config: StudyConfig, patience: Patience | None = None, claim: Claim | None = None
) -> "Suggestions":
    """Open the Optuna study of a search."""
    from study.searching.optuna_study import Suggestions

    return Suggestions(
        config.storage,
        config.study_name,
        metric=config.metric,
        sampler=config.sampler,
        seed=config.seeds.first,
        patience=patience,
        claim=claim,
    )
