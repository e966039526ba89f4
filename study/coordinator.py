"""The loop behind a search: ask, submit, take events, record, tell. The only writer.

Where a trial stands is not kept in memory alone: each step asks the store whether a stage run's
key is done, so a search that was killed goes on as if it had not been.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.records import Kind, Role, StageRun, State, StudyRecord, Trial, keys_of, stage_run_key
from storage.redaction import redact_text
from storage.store import Store
from storage.vault import Vault
from study.budget import DeviceTime, device_time
from study.config import StudyConfig
from study.course import Course
from study.engines.base import Engine, EpochEnded, Event, StageEnded, StageFailed
from study.failures import Failures
from study.outcomes import Outcomes
from study.policy import Policy, Standing, may_enter
from study.progress import EpochFinished, Listener, StageStarted, TrialFinished
from study.proposing import Proposals
from study.retention import Kept, discard, shorten, spare, too_many
from study.tree import StageTree, grow
from study.weights_files import WeightsFiles
from trainers.base import StageTask
from trainers.metrics import EpochMetrics, EpochNumbers
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from study.suggestions import Suggestions  # Optuna, which `best` and `ls` do without

TIDY_EVERY = 10
"""After so many trials, or a tenth of all, weights that are no longer needed are deleted."""

_ENDED = (State.COMPLETE, State.PRUNED)


class Coordinator:
    """Drives one study. `stop` is asked after each epoch whether to leave off.

    `labels` are those of the validation photos, int64 (n,).
    """

    def __init__(
        self,
        *,
        study: StudyRecord,
        labels: NDArray[np.int64],
        config: StudyConfig,
        weights: str,
        policy: Policy,
        store: Store,
        vault: Vault,
        suggestions: "Suggestions",
        engine: Engine,
        listener: Listener,
        stop: Callable[[], bool],
    ) -> None:
        self.study = study
        self.labels = labels
        self.config = config
        self.policy = policy
        self.store = store
        self.vault = vault
        self.weights_files = WeightsFiles(store, vault, config.metric)
        self.suggestions = suggestions
        self.proposals = Proposals(study, config, weights, store, suggestions)
        self.engine = engine
        self.listener = listener
        self.stop = stop
        self.tree = StageTree()
        self.device_time = self._add_up()
        self._trials: dict[int, Trial] = {}
        self._outcomes = Outcomes(store, config.metric, labels)
        self._training: dict[str, list[Course]] = {}  # who waits for the stage run of that key
        self._failures = Failures(config.budget.max_failures)
        self._load()
        self._tidy_at = self.ended + TIDY_EVERY

    def run(self) -> None:
        """Train until the budget is spent or `stop` says so. Raises `TooManyFailures`."""
        unfinished = [t for t in self._trials.values() if t.state is State.RUNNING]
        self.suggestions.reconcile(self._trials.values())
        keys = keys_of(self.study.manifest_digest, unfinished)
        self.weights_files.take_over(self.study.id, keys)
        for trial in unfinished:
            self._advance(Course(trial))
        self._fill()
        with closing(self.engine.events()) as events:
            for event in events:
                self._take(event)
                if self.stop():
                    return
                self._fill()
        self._tidy()

    @property
    def standing(self) -> Standing:
        """What has been run."""
        return Standing(list(self._trials.values()), self.tree, self._outcomes.by_schedule)

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(trial.state is not State.RUNNING for trial in self._trials.values())

    def _add_up(self) -> DeviceTime:
        """Add up what all epochs of the study took, which only a recorded epoch changes."""
        per_device = self.config.workers_per_device
        return device_time(self.store, self.study.id, per_device, self.policy.compute)

    def _load(self) -> None:
        """Learn what has been run."""
        trials = self.store.trials(self.study.id)
        self._trials = {trial.number: trial for trial in trials}
        runs, links = self.store.stage_runs(self.study.id), self.store.links(self.study.id)
        self.tree = grow(trials, runs, links, self.store.ranks(self.study))
        for trial in trials:
            self._outcomes.learn(trial)

    # starting trials

    def _fill(self) -> None:
        while self._has_room() and not self.stop() and not self.device_time.spent:
            action = self.policy.next_action(self.standing)
            if action is None:
                return
            trial = self.proposals.begin(action, self._trials, self.tree)
            self._trials[trial.number] = trial
            self._advance(Course(trial))

    def _has_room(self) -> bool:
        """Whether a slot is idle, and not too many trials wait for what the others train."""
        waiting = sum(len(courses) for courses in self._training.values())
        return len(self._training) < self.engine.slots and waiting < 2 * self.engine.slots

    # through the stages

    def _advance(self, course: Course) -> None:
        """Walk over the stages that are done; have the first that is not trained, or finish."""
        trial = course.trial
        prefixes = trial.schedule.prefixes()
        while course.position < len(prefixes):
            prefix = prefixes[course.position]
            key = stage_run_key(self.study.manifest_digest, prefix, trial.seed)
            if not may_enter(trial, course.position, key, self.tree, self.config):
                self._finish(course, State.PRUNED)
                return
            if self._waits_for_budget(key):
                return
            start = self.weights_files.start(course.run, prefix.stages[-1])
            course.run = run = self.store.begin_stage_run(trial, key, course.position)
            self.tree.enter(trial, course.position, key)
            in_training = key in self._training
            done = not in_training and self.weights_files.serve(run, course.next_starts_from)
            if (in_training or run.state in _ENDED) and self._catches_up_to_be_pruned(course, run):
                if not in_training:
                    self.vault.discard(key)
                course.seconds += self._seconds(run)
                self._finish(course, State.PRUNED)
                return
            if not done:
                self._train(course, run, prefix, start)
                return
            self.vault.discard(key)  # a crash may have come between the seal and this
            course.seconds += run.seconds
            course.position += 1
        self._finish(course, State.COMPLETE)

    def _waits_for_budget(self, key: str) -> bool:
        """Whether a stage run is left for a larger budget: one that was begun is gone on with."""
        return self.tree.find(key) is None and self.device_time.spent

    def _catches_up_to_be_pruned(self, course: Course, run: StageRun) -> bool:
        """Report what others' training of the stage has shown; say whether to prune."""
        # All epochs, even if the first is one too many: the weights are those of the best.
        return any([self._note(course, epoch) for epoch in self.store.epochs(run.id)])  # noqa: C419 - each is reported

    def _train(self, course: Course, run: StageRun, prefix: Schedule, start: Path | None) -> None:
        """Have a stage run trained, or wait for it with those that had it submitted."""
        trial, before = course.trial, course.epochs_before
        self.listener(
            StageStarted(trial.number, trial.schedule, trial.seed, course.position, before)
        )
        if run.key in self._training:
            self._training[run.key].append(course)
            return
        self._training[run.key] = [course]
        folder = self.vault.workspace(run.key)
        task = StageTask(schedule=prefix, seed=trial.seed, folder=folder, start=start)
        self.engine.submit(run.key, task)

    # taking events

    def _take(self, event: Event) -> None:
        courses = self._training[event.key]
        run = courses[0].run
        if run is None:
            raise ValueError(f"event must be of a stage run in training, got {event}")
        match event:
            case EpochEnded(_, metrics):
                self._record(courses, run, metrics)
            case StageEnded():
                self._seal(courses, run, State.COMPLETE)
                for course in courses:
                    course.position += 1
                    self._advance(course)
            case StageFailed(_, kind, reason):
                failure = redact_text(f"{kind}: {reason}")
                del self._training[event.key]
                seconds = self._seconds(run)
                self.store.fail_stage_run(run.id, seconds)
                self.tree.fail(run.key)
                self.vault.discard(run.key)
                for course in courses:
                    course.seconds += seconds
                    self._finish(course, State.FAILED, failure)
                self._failures.count(failure)

    def _record(self, courses: list[Course], run: StageRun, metrics: EpochMetrics) -> None:
        self.store.record_epoch(run.id, metrics)
        self.device_time = self._add_up()
        weak = []
        for course in courses:
            step = course.epochs_before + metrics.epoch
            self.listener(EpochFinished(course.trial.number, step, metrics, self.device_time))
            if self._note(course, metrics):
                weak.append(course)
        if len(weak) == len(courses):  # nobody needs it any more
            self.engine.cancel(run.key)
            self._seal(courses, run, State.PRUNED)
        elif weak:
            seconds = self._seconds(run)
            for course in weak:
                course.seconds += seconds
        for course in weak:
            courses.remove(course)
            self._finish(course, State.PRUNED)

    def _seconds(self, run: StageRun) -> float:
        """How long a stage run was trained so far."""
        return sum(epoch.seconds for epoch in self.store.epochs(run.id))

    def _note(self, course: Course, epoch: EpochNumbers) -> bool:
        """Report an epoch, be it new or taken over; say whether the pruner wants the trial out."""
        metric = self.config.metric
        if course.best is None or epoch.rank(metric) < course.best.rank(metric):
            course.best, course.best_run = epoch, course.run
        step = course.epochs_before + epoch.epoch
        course.steps = max(course.steps, step)
        wants_out = self.suggestions.report(course.trial.number, step, epoch.score(metric))
        return wants_out and course.trial.role in (Role.EXPLORE, Role.BRANCH)

    def _seal(self, courses: Sequence[Course], run: StageRun, state: State) -> None:
        """End a stage run for all who share it; give its weights their names and hashes."""
        del self._training[run.key]
        first, complete = courses[0], state is State.COMPLETE
        longer = any(course.next_starts_from for course in courses)
        # Another trial may go on from here, though this one does not.
        longer |= run.position + 1 < max(self.config.resolved_space.n_stages)
        seconds, rank = self.weights_files.seal(
            run, state, first.trial, first.epochs_before, with_last=complete and longer
        )
        if complete:
            self.tree.finish(run.key, rank)
        for course in courses:
            course.seconds += seconds

    def _finish(self, course: Course, state: State, failure: str | None = None) -> None:
        """End a trial, in our tables first: `reconcile` tells Optuna what a crash withheld."""
        metric, best, best_run = self.config.metric, course.best, course.best_run
        kept = self.weights_files.kept(best_run) if best_run else {}
        file = kept[Kind.BEST].path if Kind.BEST in kept else None
        self.store.finish_trial(
            course.trial.id,
            state,
            score=best.score(metric) if best else None,
            loss=best.valid_loss if best else None,
            best_stage_run=best_run.id if best_run else None,
            best_epoch=best.epoch if best else None,
            failure=failure,
            seconds=course.seconds,
        )
        number = course.trial.number
        trial = self._trials[number] = self.store.trial(self.study.id, number)
        self._outcomes.learn(trial)
        story = {"seconds": round(trial.seconds, 1), "weights": file, "failure": failure}
        self.suggestions.annotate(number, {k: v for k, v in story.items() if v is not None})
        self.suggestions.tell(number, state, trial.score)
        self.listener(TrialFinished(trial, course.steps, file, self.policy.to_go(self.standing)))
        if state is not State.FAILED:
            self._failures.forget()
        if self.ended >= self._tidy_at:
            self._tidy()
            self._tidy_at = self.ended + max(TIDY_EVERY, self.ended // 10)

    def _tidy(self) -> None:
        """Delete weights that nobody will choose and nobody goes on from.

        Even at the end, beginnings stay: the same command may be given more trials.
        """
        kept = Kept.of(self.store, self.study)
        spares = spare(kept, self.standing, self.config, ongoing=True)
        discard(spares, self.study.id, self.store, self.vault)
        limit, known = self.config.keep.max_predictions, self.store.kept_predictions(self.study)
        shorten(too_many(known, limit, len(self.labels)), self.store, self.labels)
