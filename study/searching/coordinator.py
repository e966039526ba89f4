"""The loop behind a search: ask, submit, take events, record, tell. The only writer.

The state of a trial is not kept in memory only: each step asks the store whether a stage run's key
is done, so a search that was killed continues as if it had not been.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from storage.records import Kind, StageRun, State, StudyRecord, Trial, keys_of, stage_run_key
from storage.redaction import redact_text
from storage.store import Store
from storage.vault import Vault
from study.budget import DeviceTime, device_time
from study.config.schema import StudyConfig
from study.engines.base import (
    BatchesDone,
    Engine,
    EpochEnded,
    Event,
    StageEnded,
    StageFailed,
    Woken,
)
from study.errors import TooManyFailures
from study.events import (
    EpochFinished,
    EpochProgress,
    Listener,
    Notice,
    StageStarted,
    TrialFinished,
    noticing,
    working,
)
from study.searching.checkpoints import Copied, WeightsFiles
from study.searching.failures import Failures
from study.searching.first_folds import FirstFolds
from study.searching.other_studies import OtherStudies
from study.searching.policy import Begin, GoOn, Policy, Standing, Stop, Verdict
from study.searching.race_scores import Photos
from study.searching.retention import (
    Kept,
    delete,
    deletion_text,
    retire,
    shorten_all,
    spare,
    too_many,
)
from study.searching.running_trial import RunningTrial
from study.searching.sealing import Sealing
from study.searching.suggest import params_of
from study.searching.time_left import TimeLeft
from study.stage_tree import StageTree
from study.statistics.groups import Groups
from trainers.base import StageTask
from trainers.metrics import EpochMetrics, EpochNumbers
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from study.searching.drafts import Draft

    # imports Optuna, which `best` and `ls` do not need
    from study.searching.optuna_study import Suggestions

T = TypeVar("T")

TIDY_EVERY = 10
"""After this many trials, or a tenth of all, weights that are no longer needed are deleted."""


@dataclass(frozen=True)
class Searched:
    """A study, the settings of its search, and the name of the initial weights.

    `labels` are those of the validation photos, int64 (n,), `groups` and `fold_of` theirs, if they
    have any.
    """

    study: StudyRecord
    labels: NDArray[np.int64]
    config: StudyConfig
    weights: str
    groups: Groups | None = None
    fold_of: NDArray[np.int64] | None = None


class Coordinator:
    """Runs the search of one study. `stop` is checked after each epoch."""

    def __init__(
        self,
        searched: Searched,
        *,
        policy: Policy,
        store: Store,
        vault: Vault,
        suggestions: "Suggestions",
        engine: Engine,
        listener: Listener,
        stop: Callable[[], bool],
    ) -> None:
        self.study = searched.study
        self.labels = searched.labels
        self.config = config = searched.config
        self.policy = policy
        self.store = store
        self.vault = vault
        self.weights_files = WeightsFiles(store, vault, config.metric, noticing(listener))
        self.suggestions = suggestions
        self.weights = searched.weights
        self.engine = engine
        self.listener = listener
        self.stop = stop
        self.time_left: TimeLeft | None = None  # estimates it, if it is to be shown
        self.tree = StageTree()
        self.device_time = self._add_up()
        self._trials: dict[int, Trial] = {}
        photos = Photos(self.labels, searched.groups)
        self._first = FirstFolds(store, config, policy, photos, searched.fold_of)
        self._outcomes = self._first.outcomes
        self._training: dict[str, list[RunningTrial]] = {}  # by the key of their stage run
        self._waiting: dict[int, RunningTrial] = {}  # by trial, until the policy lets it continue
        self._sealing = Sealing(engine.wake)
        self._draft: Draft | None = None  # the sampler's last suggestion
        self._others = OtherStudies(store, self.study, config)
        self._not_taken = set[str]()  # stage runs whose files other studies do not have any more
        self._failures = Failures(config.budget.max_failures)
        self._load()
        self._tidy_at = self.ended + TIDY_EVERY

    def run(self) -> None:
        """Train until the budget is spent or `stop` says so. Raises `TooManyFailures`."""
        unfinished = [t for t in self._trials.values() if t.state is State.RUNNING]
        self.suggestions.reconcile({n: (t.state, self._value(n)) for n, t in self._trials.items()})
        keys = keys_of(self.study.manifest_digest, unfinished)
        self.weights_files.take_over(self.study.id, keys)
        for trial in unfinished:
            self._advance(RunningTrial(trial, resumed=True))
        self._fill()
        self.engine.watch(self._show)
        try:
            through = self._train_all()
        except TooManyFailures:
            self._settle()
            raise
        self._settle()
        if through:
            self._tidy()
            self._settle()

    @property
    def standing(self) -> Standing:
        """What has been run."""
        return Standing(
            trials=list(self._trials.values()),
            tree=self.tree,
            outcomes=self._outcomes.by_schedule,
            suggest=self._suggest,
            waiting=self._waiting.keys(),
            on_first=self._outcomes.on_first,
            stopped=self._outcomes.stopped,
        )

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(trial.state is not State.RUNNING for trial in self._trials.values())

    def _add_up(self) -> DeviceTime:
        """Add up what all epochs of the study took, which only a recorded epoch changes."""
        per_device = self.config.workers_per_device
        return device_time(self.store, self.study.id, per_device, self.policy.compute)

    def _load(self) -> None:
        """Add results to the tree."""
        trials = self.store.trials(self.study.id)
        self._trials = {trial.number: trial for trial in trials}
        self.tree = StageTree.of(self.store, self.study)
        for trial in trials:
            self._outcomes.learn(trial)

    def _train_all(self) -> bool:
        """Train until nothing is left; return False if `stop` has ended it before."""
        while True:
            with closing(self.engine.events()) as events:
                for event in events:
                    self._take(event)
                    for job in self._sealing.ended():
                        job.end()
                    if self.stop():
                        return False
                    self._fill()
            if not self._sealing:
                return True
            self._end_next()  # nothing trains now; trials may continue from these files
            if self.stop():
                return False
            self._fill()

    # starting trials

    def _fill(self) -> None:
        while self._has_room() and not self.stop() and not self.device_time.spent:
            action = self.policy.next_action(self.standing)
            match action:
                case None:
                    return
                case Begin():
                    self._advance(RunningTrial(self._begin(action)))
                case GoOn(number, notes):
                    self.suggestions.annotate(number, notes)
                    self._advance(self._waiting.pop(number), let_on=True)
                case Stop(number):
                    self._finish(self._waiting.pop(number), State.PRUNED)

    def _has_room(self) -> bool:
        """Whether a slot is idle, and not too many trials wait for stage runs of others.

        A slot is kept for each trial that continues as soon as the files it needs are sealed.
        """
        joined = sum(len(sharing) for sharing in self._training.values()) + self._sealing.put_off
        busy = len(self._training) + self._sealing.held
        return busy < self.engine.slots and joined < 2 * self.engine.slots

    def _begin(self, action: Begin) -> Trial:
        """Begin a trial, in Optuna and in our own tables."""
        draft = self._draft
        if draft is not None and draft.schedule == action.schedule:
            number = self.suggestions.add(draft.params, draft.notes)
        else:
            params = params_of(action.schedule, self.config.resolved_space)
            number = self.suggestions.add(params)
        trial = self.store.add_trial(
            self.study.id, number, action.schedule, action.seed, action.role
        )
        story = {"seed": action.seed, "schedule": trial.schedule_digest, "role": action.role.value}
        self.suggestions.annotate(number, story | dict(action.notes))
        self._trials[number] = trial
        return trial

    def _suggest(self) -> Schedule:
        turn = len(self._trials) + sum(node.trained is not None for node in self.tree)
        self._draft = self.suggestions.draft(self.config.resolved_space, self.weights, turn)
        return self._draft.schedule

    # through the stages

    def _advance(self, running: RunningTrial, *, let_on: bool = False) -> None:
        """Skip the stages that are done; train the first that is not, or finish.

        Before training, the policy is asked, unless the trial is `let_on` or was before.
        """
        trial = running.trial
        prefixes = trial.schedule.prefixes()
        while running.position < len(prefixes):
            prefix = prefixes[running.position]
            key = stage_run_key(self.study.manifest_digest, prefix, trial.seed)
            if not let_on and not self._may_enter(running, key):
                return
            if self._waits_for_budget(key) or self._waits_for_files(running, key):
                return
            node = self.tree.find(key)
            if self._first.was_stopped(running, node):
                run = self.store.begin_stage_run(trial, key, running.position)
                self.tree.enter(trial, running.position, key)
                self.vault.discard(key)  # a crash may have come before this
                self._stop(running, run.seconds, self._first.why)
                return
            start = self.weights_files.start(running.run, prefix.stages[-1])
            run = self.store.begin_stage_run(trial, key, running.position)
            self.tree.enter(trial, running.position, key)
            taken = self._taken(running, run)
            if taken is None:
                return
            run = running.run = taken
            for epoch in self.store.epochs(run.id):
                self._note(running, epoch)
            if key in self._training or not self.weights_files.serve(run, running.next_starts_from):
                self._train(running, run, prefix, start)
                return
            self.vault.discard(key)  # a crash may have come between the seal and this
            running.seconds += run.seconds
            running.position += 1
            let_on = False
        self._finish(running, State.COMPLETE)

    def _may_enter(self, running: RunningTrial, key: str) -> bool:
        """Ask the policy if the next stage costs something; the trial waits or ends as decided."""
        trial, position, onward = running.trial, running.position, self.tree.find(key)
        trained = onward is not None and onward.rank is not None
        if position == 0 or trained or self.tree.has_entered(trial.number, position):
            return True
        after = self.tree.at(trial.number, position - 1)
        match self.policy.between_stages(trial, after, self.standing):
            case Verdict.GO_ON:
                return True
            case Verdict.WAIT:
                self._waiting[trial.number] = running
            case Verdict.STOP:
                self._finish(running, State.PRUNED)
        return False

    def _waits_for_budget(self, key: str) -> bool:
        """Whether a stage run has to wait for a larger budget; one that was begun is continued."""
        return self.tree.find(key) is None and self.device_time.spent

    def _waits_for_files(self, running: RunningTrial, key: str) -> bool:
        """Put a trial off while the files it continues from, or shares, are being sealed."""
        before = [running.run.key] if running.run else []
        advance = partial(self._advance, running, let_on=True)
        return any(self._sealing.wait(each, advance, hold=True) for each in (*before, key))

    def _taken(self, running: RunningTrial, run: StageRun) -> StageRun | None:
        """Complete a stage run that was not begun with another study's result, if there is one.

        Return None if the trial is put off: with several slots, a thread copies the files.
        """
        key, trial = run.key, running.trial
        begun = key in self._training or key in self._not_taken or self.store.epochs(run.id)
        twins = [] if run.state is not State.RUNNING or begun else self._others.twins(run)
        if not twins:
            return run
        copy = partial(
            self._others.copy,
            *(twins, run, trial, running.epochs_before),
            *(self.weights_files, running.next_starts_from),
        )
        self._have_done(key, copy, partial(self._take_over, trial, run))
        if self._sealing.wait(key, partial(self._advance, running, let_on=True), hold=True):
            return None
        return self.store.begin_stage_run(trial, key, run.position)

    def _take_over(self, trial: Trial, run: StageRun, copied: Copied | None) -> None:
        """Record a stage run of another study, whose files are copied, if they were there."""
        if copied is None:
            self._not_taken.add(run.key)
            return
        self.tree.finish(run.key, self.weights_files.take(run, copied))
        self.listener(
            Notice(
                f"trial {trial.number}: stage {run.position + 1} is taken from study "
                f"{copied.study}, which has trained it"
            )
        )

    def _train(
        self, running: RunningTrial, run: StageRun, prefix: Schedule, start: Path | None
    ) -> None:
        """Train a stage run, or wait for it with the trials that have submitted it."""
        trial, before = running.trial, running.epochs_before
        self.listener(
            StageStarted(trial.number, trial.schedule, trial.seed, running.position, before)
        )
        if run.key in self._training:
            self._training[run.key].append(running)
            return
        self._training[run.key] = [running]
        folder = self.vault.workspace(run.key)
        task = StageTask(schedule=prefix, seed=trial.seed, folder=folder, start=start)
        self.engine.submit(run.key, self._first.begin(running, run, task, self.standing))

    # taking events

    def _take(self, event: Event) -> None:
        if isinstance(event, Woken):
            return
        sharing = self._training[event.key]
        run = sharing[0].run
        if run is None:
            raise ValueError(f"event must be of a stage run in training, got {event}")
        match event:
            case EpochEnded(_, metrics) if run.key in self._first:
                self._first.learn(run.key, metrics)
                if self.time_left is not None:
                    self.time_left.learn(run.key, metrics.seconds, self._first.share)
            case EpochEnded(_, metrics):
                self._record(sharing, run, metrics)
            case StageEnded() if run.key in self._first:
                self._end_first(sharing, run)
            case StageEnded():
                self._seal(sharing, run)
                self._let_on(event.key)
            case StageFailed(_, kind, reason):
                failure = redact_text(f"{kind}: {reason}")
                del self._training[event.key]
                self._first.forget(event.key)
                seconds = self._seconds(run)
                self.store.fail_stage_run(run.id, seconds)
                self.tree.fail(run.key)
                self.vault.discard(run.key)
                for running in sharing:
                    running.seconds += seconds
                    self._finish(running, State.FAILED, failure)
                self._failures.count(failure)

    def _end_first(self, sharing: Sequence[RunningTrial], run: StageRun) -> None:
        """Train the networks of the other folds as well, unless those of the first are beaten."""
        task, beaten = self._first.end(sharing, run, self.standing)
        if beaten is None:
            self.engine.submit(run.key, task)
            return
        del self._training[run.key]
        self.store.stop_stage_run(run.id, beaten.seconds, beaten.score, beaten.loss)
        metric = self.config.metric
        self.tree.stop(run.key, metric, beaten.score, beaten.loss, beaten.seconds)
        self.vault.discard(run.key)
        self.device_time = self._add_up()
        for running in sharing:
            self._stop(running, beaten.seconds, self._first.why)

    def _stop(self, running: RunningTrial, seconds: float, why: str) -> None:
        """End a trial whose last stage is beaten on its first folds."""
        running.seconds += seconds
        self._finish(running, State.PRUNED, why)

    def _show(self, said: BatchesDone) -> None:
        """Report the progress of an epoch, for each trial that waits for it."""
        for running in self._training.get(said.key, ()):
            step = running.epochs_before + said.epoch
            self.listener(EpochProgress(running.trial.number, step, said.done, said.total))

    def _let_on(self, key: str) -> None:
        """Advance trials that wait before a stage run that is now trained, as after a restart."""
        ended = self.tree.find(key)
        for number, running in [*self._waiting.items()]:
            trial = running.trial
            comes_next = trial.schedule.prefixes()[running.position], trial.seed
            if ended is not None and comes_next == (ended.prefix, ended.seed):
                self._advance(self._waiting.pop(number))

    def _record(self, sharing: list[RunningTrial], run: StageRun, metrics: EpochMetrics) -> None:
        metrics = metrics.calibrated(self.config.metric)
        self.store.record_epoch(run.id, metrics)
        self.device_time = self._add_up()
        if self.time_left is not None:
            self.time_left.learn(run.key, metrics.seconds)
        standing, time = self.standing, self.device_time
        left = self._seconds_left(standing, self.policy.to_go(standing))
        for running in sharing:
            step = running.epochs_before + metrics.epoch
            self.listener(EpochFinished(running.trial.number, step, metrics, time, left))
            self._note(running, metrics)

    def _seconds_left(self, standing: Standing, to_go: int | None) -> float | None:
        """Estimate the rest of the search, if requested."""
        if self.time_left is None:
            return None
        return self.time_left.seconds(standing, to_go, self.device_time)

    def _seconds(self, run: StageRun) -> float:
        """How long a stage run has been trained so far, in seconds."""
        return sum(epoch.seconds for epoch in self.store.epochs(run.id))

    def _note(self, running: RunningTrial, epoch: EpochNumbers) -> None:
        """Report an epoch, whether new or shared."""
        metric = self.config.metric
        if running.best is None or epoch.rank(metric) < running.best.rank(metric):
            running.best, running.best_run = epoch, running.run
        step = running.epochs_before + epoch.epoch
        running.steps = max(running.steps, step)
        self.suggestions.report(running.trial.number, step, epoch.score(metric))

    def _seal(self, sharing: Sequence[RunningTrial], run: StageRun) -> None:
        """End a stage run for all trials that share it; seal its weights.

        With several slots, a thread seals them, and what needs the files is put off.
        """
        del self._training[run.key]
        first, trained = sharing[0], self.weights_files.trained(run)
        longer = any(running.next_starts_from for running in sharing)
        # Another trial may continue from here, even if this one does not.
        longer |= run.position + 1 < max(self.config.resolved_space.n_stages)
        seal = partial(
            self.weights_files.seal, run, first.trial, first.epochs_before, with_last=longer
        )
        with working(self.listener, "saving weights"):
            self._have_done(run.key, seal, partial(self.weights_files.enter, run))
        self.tree.finish(run.key, trained)
        for running in sharing:
            running.seconds += trained.seconds
            running.position += 1
            self._advance(running)

    def _have_done(self, key: str, work: Callable[[], T], record: Callable[[T], None]) -> None:
        """Do work with files, or have a thread do it while others train; then record its result."""
        if self.engine.slots > 1:
            self._sealing.begin(key, work, record)
        else:  # what is tried next must not depend on the speed of the disk
            record(work())

    def _end_next(self) -> None:
        """Wait until files are sealed or deleted."""
        with working(self.listener, "saving weights"):
            job = self._sealing.next()
        job.end()

    def _settle(self) -> None:
        """Wait until all that was trained is sealed."""
        while self._sealing:
            self._end_next()

    def _finish(self, running: RunningTrial, state: State, failure: str | None = None) -> None:
        """End a trial, in our tables first: after a crash, `reconcile` updates Optuna."""
        ended = partial(self._finish, running, state, failure)
        if running.run and self._sealing.wait(running.run.key, ended, hold=False):
            return
        metric, best, best_run = self.config.metric, running.best, running.best_run
        kept = self.weights_files.kept(best_run) if best_run else {}
        file = kept[Kind.BEST].path if Kind.BEST in kept else None
        self.store.finish_trial(
            running.trial.id,
            state,
            score=best.score(metric) if best else None,
            loss=best.valid_loss if best else None,
            best_stage_run=best_run.id if best_run else None,
            best_epoch=best.epoch if best else None,
            failure=failure,
            seconds=running.seconds,
        )
        number = running.trial.number
        trial = self._trials[number] = self.store.trial(self.study.id, number)
        self._outcomes.learn(trial)
        story = {"seconds": round(trial.seconds, 1), "weights": file, "failure": failure}
        self.suggestions.annotate(number, {k: v for k, v in story.items() if v is not None})
        self.suggestions.tell(number, state, self._value(number))
        standing = self.standing
        to_go = self.policy.to_go(standing)
        alike = (n for n, t in self._trials.items() if t.schedule_digest == trial.schedule_digest)
        first = min(alike)
        self.listener(
            TrialFinished(
                trial,
                running.steps,
                file,
                to_go,
                self.policy.outlook(standing),
                repeats=first if first < number else None,
                shared=self.tree.shared_with(number),
                resumed=running.resumed,
                seconds_left=self._seconds_left(standing, to_go),
            )
        )
        if state is not State.FAILED:
            self._failures.forget()
        if self.ended >= self._tidy_at:
            self._tidy()
            self._tidy_at = self.ended + max(TIDY_EVERY, self.ended // 10)

    def _value(self, number: int) -> float | None:
        """Return the value of a trial in Optuna: the score of its last stage."""
        node = self.tree.last_trained(number)
        return None if node is None or node.rank is None else self.config.metric.score_of(node.rank)

    def _tidy(self) -> None:
        """Delete weights that will not be chosen and that no trial continues from.

        Even at the end, weights of first stages stay: the same command may be given more trials.
        """
        kept = Kept.of(self.store, self.study)
        spares = spare(kept, [*self._trials.values()], self.tree, self.config, ongoing=True)
        if spares:
            self.listener(Notice(deletion_text(spares)))
            files = retire(spares, self.store)
            self._have_done(
                f"deletion of {files[0].path}",
                partial(delete, files, self.vault),
                partial(self.store.settle_names, self.study.id),
            )
        limit, known = self.config.keep.max_predictions, self.store.kept_predictions(self.study)
        shorten_all(too_many(known, limit, len(self.labels)), self.store, self.labels)
