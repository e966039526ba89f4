"""Use cases `search` and `repeat`: assemble the parts, run the coordinator."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from storage.folders import settle
from storage.paths import CACHE, open_vault, runs_folder
from storage.records import StudyRecord
from storage.remote import GIVE_UP_AFTER, Remote
from storage.retry import Patience
from storage.store import Store, existing_store, open_store
from study.budget import DeviceTime
from study.config.loading import load_config, settings_of
from study.config.schema import Strategy, StudyConfig
from study.datasets.freeze import describe_data, keep_check
from study.engines.base import Engine
from study.events import Listener, SearchStarted, noticing, telling
from study.formatting import count_text
from study.invocation import searched_by
from study.searching.coordinator import Coordinator, Searched
from study.searching.fitting import Fit
from study.searching.ownership import Ownership
from study.searching.policy import Policy, SearchPolicy, SeedsPolicy
from study.searching.prepare import (
    MakePolicy,
    Prepared,
    check_settings,
    prepare,
    search_policy,
    views,
)
from study.searching.signals import interruption
from study.searching.suggest import may_move_a_probe, moves_a_probe
from study.searching.time_left import TimeLeft
from study.studies import (
    find_study,
    find_trial,
    keep_manifest,
    open_study,
    plain_config,
    stored_config,
)
from trainers.data.manifest import Manifest, Split

CHECK_WITHIN = 3.0
"""Timeout of a vault when a search begins: nothing would be lost yet."""


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended: the study's trials that have ended, those to go, and the device time.

    `to_go` is None if the search is not ended by a number of trials. `stopped` means that the user
    stopped it, `spent` is the limit that ended it, if it was not the number of trials.
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
    budget, study, storage, metric, repeats, finalists, ... `listener` is called with each event.
    Raises `ConfigError`, `DatasetError`, `StudyInUse`, `WeightsUnavailable`, `TooManyFailures` and
    the database's errors; nothing is written before data and settings have been checked.
    """
    config = config or load_config(settings_of(**settings))
    return _run(config, None, listener, search_policy)


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
        return _run(config, store, listener, lambda *_: SeedsPolicy(of, seeds, config))


def _run(
    config: StudyConfig, store: Store | None, listener: Listener, make_policy: MakePolicy
) -> SearchOutcome:
    """Check everything, claim the study, search; in `store`, if it is open already."""
    deadline, say = time.monotonic() + (config.budget.timeout or math.inf), noticing(listener)
    if config.vault is not None:
        Remote(config.vault, give_up_after=CHECK_WITHIN).check()
    setup, cache_folder = check_settings(config, make_policy), runs_folder(config.storage) / CACHE
    with ExitStack() as held:
        store = store or held.enter_context(existing_store(config.storage))
        ready = prepare(setup, make_policy, store, listener, cache_folder)
        training = setup.training(ready.fit.config, ready.manifest, cache_folder, searched_by())
        _warn_of_moving(ready.fit, ready.policy, training.check_backbones(), say)
        store = store or held.enter_context(open_store(config.storage))
        study = open_study(store, ready.fit.config, ready.manifest)
        if ready.check is not None:
            keep_check(store, ready.check)
        ownership = held.enter_context(Ownership(store, study.id, say))
        engine, interrupted = held.enter_context(closing(training.engine(say))), threading.Event()
        own = _Own(store, ownership, Patience(say, interrupted, ownership.confirm))
        coordinator = own.coordinator(
            ready,
            study,
            engine,
            listener,
            lambda: bool(interrupted.is_set() or ownership.lost or time.monotonic() >= deadline),
        )
        coordinator.time_left = _time_left(ready, engine.slots, deadline)
        _tell_start(coordinator, ready.manifest, listener)
        # Before the first trial there is nothing to finish: one signal stops at once.
        training.recipe.prepare(views(ready.policy), telling(listener, "decoding photos"), say)
        with interruption(interrupted, say):
            coordinator.run()
        if ownership.lost:
            raise ownership.lost
        return _outcome(coordinator, deadline, stopped=interrupted.is_set())


@dataclass(frozen=True)
class _Own:
    """The database while the study is ours, and the coordinator, its only writer."""

    store: Store
    ownership: Ownership
    patience: Patience

    def coordinator(
        self,
        ready: Prepared,
        study: StudyRecord,
        engine: Engine,
        listener: Listener,
        stop: Callable[[], bool],
    ) -> Coordinator:
        """Store the current settings of the study; make the coordinator."""
        from study.searching.optuna_study import Suggestions  # a second to import

        config, say, claim = ready.fit.config, noticing(listener), self.ownership.claim
        store = self.store.fenced(claim, self.patience)
        study = settle(store, config.storage, study, say)
        store.update_config(study.id, {**study.config, **plain_config(config)})
        keep_manifest(store, ready.manifest)
        labels, groups = ready.manifest.labels(Split.VALID), ready.manifest.groups(Split.VALID)
        fold_of = ready.manifest.fold_of_answers if ready.manifest.folds else None
        vault = open_vault(
            config.storage, study, owner=claim.token, give_up_after=GIVE_UP_AFTER, say=say
        )
        return Coordinator(
            Searched(study, labels, config, ready.setup.weights, groups, fold_of),
            policy=ready.policy,
            store=store,
            vault=vault,
            suggestions=Suggestions.of(config, self.patience, claim),
            engine=engine,
            listener=listener,
            stop=stop,
        )


def _time_left(ready: Prepared, slots: int, deadline: float) -> TimeLeft:
    given = ready.policy.given if isinstance(ready.policy, SearchPolicy) else ()
    training = len(ready.manifest.of_one_network().of_split(Split.TRAIN))
    return TimeLeft(ready.fit.config, training, slots, given, deadline)


def _tell_start(coordinator: Coordinator, manifest: Manifest, listener: Listener) -> None:
    study, ranking = coordinator.study, coordinator.store.ranking(coordinator.study)
    listener(
        SearchStarted(
            study=study.name,
            metric=study.metric,
            data=describe_data(coordinator.config, manifest),
            done=coordinator.ended,
            to_go=coordinator.policy.to_go(coordinator.standing),
            device_time=coordinator.device_time,
            best_score=ranking[0].trial.score if ranking else None,
            left_out=manifest.left_out,
            goal=_goal(coordinator.policy),
            photos=len(manifest.of_split(Split.VALID)),
        )
    )


def _goal(policy: Policy) -> str:
    """Return in words which trials are counted as to go."""
    if isinstance(policy, SeedsPolicy):
        return f"the existing ones, and repeats until #{policy.of.number} has {policy.seeds} seeds"
    if not isinstance(policy, SearchPolicy) or policy.config.budget.trials is None:
        return ""
    seeds = policy.config.seeds
    races = f"{count_text(seeds.repeats, 'repeat')} each of the best {seeds.finalists}"
    grid = policy.config.strategy is Strategy.GRID
    trials = len(policy.given) if grid else policy.config.budget.trials
    return f"{trials:,}" + (f", and at most {races}" if seeds.repeats else "")


def _outcome(coordinator: Coordinator, deadline: float, *, stopped: bool) -> SearchOutcome:
    """Return how a search ended."""
    standing, device_time, policy = (
        coordinator.standing,
        coordinator.device_time,
        coordinator.policy,
    )
    to_go, spent = policy.to_go(standing), None
    if device_time.spent:
        spent = "the device time of --budget is used up"
    elif time.monotonic() >= deadline:
        spent = "the time of --timeout is over"
    elif not stopped and policy.is_flat(standing):
        spent = "the same time again is expected to bring less than validation could show"
    return SearchOutcome(
        study=coordinator.study.name,
        ended=coordinator.ended,
        to_go=to_go,
        device_time=device_time,
        stopped=stopped,
        spent=spent if to_go != 0 else None,
    )


def _warn_of_moving(
    fit: Fit, policy: Policy, backbones: Sequence[str], say: Callable[[str], None]
) -> None:
    """Warn if a probe's head would be trained on features that BatchNorm's updates shift."""
    if not backbones or not isinstance(policy, SearchPolicy):
        return
    if fit.config.strategy is Strategy.GRID:
        moves = any(moves_a_probe(s) for s in policy.given if s.backbone in backbones)
    else:
        moves = fit.own and may_move_a_probe(fit.config.resolved_space)
    if moves:
        say(
            "stages start from a probe's head while BatchNorm shifts the features it was fitted "
            "on "
            f'({", ".join(backbones)}): give the stages after a probe batch_norm = "frozen"'
        )
