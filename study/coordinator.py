"""The loop behind a search: ask, submit, take events, record, tell. The only writer.

Where a trial stands is not kept in memory alone: each step asks the store whether a stage run's
key is done, so a search that was killed goes on as if it had not been.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.records import (
    Kind,
    Role,
    StageRun,
    State,
    Trial,
    keys_of,
    stage_run_key,
)
from storage.store import Store
from storage.vault import Vault
from study.config import StudyConfig
from study.engines.base import Engine, EpochEnded, Event, StageEnded, StageFailed
from study.policy import Action, Explore, Repeat, RunPreset, fresh_seed, next_action, to_go
from study.presets import preset_schedule
from study.progress import EpochFinished, Listener, StageStarted, TrialFinished
from study.weights_files import WeightsFiles
from trainers.base import StageTask
from trainers.metrics import EpochMetrics, EpochNumbers
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from study.suggestions import Suggestions  # Optuna, which `best` and `ls` do without


class TooManyFailures(Exception):
    """As many trials in a row failed as the budget allows."""


@dataclass
class _Running:
    """A trial on its way through its stages; `best` is its best epoch so far, in `best_run`."""

    trial: Trial
    run: StageRun | None = None
    position: int = 0
    seconds: float = 0.0
    best: EpochNumbers | None = None
    best_run: StageRun | None = None

    @property
    def epochs_before(self) -> int:
        return sum(stage.epochs for stage in self.trial.schedule.stages[: self.position])

    @property
    def next_starts_from(self) -> Kind | None:
        """Which weights of the stage at hand the next one needs, if there is a next one."""
        following = self.trial.schedule.stages[self.position + 1 :]
        return Kind(following[0].start_from) if following else None


class Coordinator:
    """Drives one study. `stop` is asked after each epoch whether to leave off."""

    def __init__(
        self,
        *,
        study_id: int,
        manifest_digest: str,
        config: StudyConfig,
        weights: str,
        store: Store,
        vault: Vault,
        suggestions: "Suggestions",
        engine: Engine,
        listener: Listener,
        stop: Callable[[], bool],
    ) -> None:
        self.study_id = study_id
        self.manifest_digest = manifest_digest
        self.config = config
        self.weights = weights
        self.store = store
        self.vault = vault
        self.weights_files = WeightsFiles(store, vault, config.metric)
        self.suggestions = suggestions
        self.engine = engine
        self.listener = listener
        self.stop = stop
        self._trials: dict[int, Trial] = {}
        self._running: dict[str, _Running] = {}  # by the key of the stage run in training
        self._failures = 0  # in a row

    def run(self) -> None:
        """Train until the budget is spent or `stop` says so. Raises `TooManyFailures`."""
        self._trials = {trial.number: trial for trial in self.store.trials(self.study_id)}
        unfinished = [t for t in self._trials.values() if t.state is State.RUNNING]
        self.suggestions.reconcile(self._trials.values())
        self._sweep(unfinished)
        for trial in unfinished:
            self._advance(_Running(trial))
        self._fill()
        with closing(self.engine.events()) as events:
            for event in events:
                self._take(event)
                if self.stop():
                    return
                self._fill()

    def _sweep(self, unfinished: Sequence[Trial]) -> None:
        """Delete what a crash left behind: stale files must never be taken for results."""
        keys = keys_of(self.manifest_digest, unfinished)
        self.vault.sweep(self.store.known_paths(self.study_id), keys)

    # starting trials

    def _fill(self) -> None:
        while len(self._running) < self.engine.slots and not self.stop():
            action = next_action(list(self._trials.values()), self.config)
            if action is None:
                return
            self._advance(_Running(self._begin(action)))

    def _begin(self, action: Action) -> Trial:
        match action:
            case RunPreset(preset):
                backbone = self.config.resolved_space.backbone[0]
                schedule = preset_schedule(preset, backbone, self.weights)
                number, role = self.suggestions.add(), Role.PRESET
            case Explore():
                number, schedule = self.suggestions.ask(self.config.resolved_space, self.weights)
                role = Role.EXPLORE
            case Repeat(of):
                number, schedule = self.suggestions.add(like=of.number), of.schedule
                role = Role.REPEAT
        # A suggestion that was already run becomes one more seed of that schedule.
        seed = fresh_seed(self._trials.values(), schedule, self.config.seeds.first)
        trial = self.store.add_trial(self.study_id, number, schedule, seed, role)
        self._trials[number] = trial
        self.suggestions.annotate(
            number, {"seed": seed, "schedule": trial.schedule_digest, "role": role.value}
        )
        return trial

    # through the stages

    def _advance(self, running: _Running) -> None:
        """Walk over the stages that are done; submit the first that is not, or finish."""
        prefixes = running.trial.schedule.prefixes()
        while running.position < len(prefixes):
            prefix = prefixes[running.position]
            key = stage_run_key(self.manifest_digest, prefix, running.trial.seed)
            start, run = (
                self._start(running),
                self.store.begin_stage_run(running.trial, key, running.position),
            )
            running.run = run
            done = self._is_done(running, run)
            if self._is_known_to_be_weak(running, run):
                self.vault.discard(key)
                running.seconds += run.seconds
                self._finish(running, State.PRUNED)
                return
            if not done:
                self._submit(running, run, prefix, start)
                return
            self.vault.discard(key)  # a crash may have come between the seal and this
            running.seconds += run.seconds
            running.position += 1
        self._finish(running, State.COMPLETE)

    def _is_known_to_be_weak(self, running: _Running, run: StageRun) -> bool:
        """Report what an earlier trial's training of the stage has shown; say whether to prune."""
        if run.state not in (State.COMPLETE, State.PRUNED):
            return False
        # All epochs, even if the first is one too many: the weights are those of the best.
        return any([self._note(running, epoch) for epoch in self.store.epochs(run.id)])  # noqa: C419 - each is reported

    def _is_done(self, running: _Running, run: StageRun) -> bool:
        """Whether a stage run is complete and the files that this trial needs are whole."""
        whole = self.weights_files.whole(run)
        needed = {Kind.BEST, running.next_starts_from} - {None}
        return run.state is State.COMPLETE and needed <= whole.keys()

    def _start(self, running: _Running) -> Path | None:
        """Find the weights that the stage at hand starts from: its parent is the latest run."""
        if running.run is None:
            return None
        wanted = Kind(running.trial.schedule.stages[running.position].start_from)
        return self.vault.path(self.weights_files.kept(running.run)[wanted].path)

    def _submit(
        self, running: _Running, run: StageRun, prefix: Schedule, start: Path | None
    ) -> None:
        self._running[run.key] = running
        trial = running.trial
        self.listener(
            StageStarted(
                trial.number, trial.schedule, trial.seed, running.position, running.epochs_before
            )
        )
        folder = self.vault.workspace(run.key)
        task = StageTask(schedule=prefix, seed=trial.seed, folder=folder, start=start)
        self.engine.submit(run.key, task)

    # taking events

    def _take(self, event: Event) -> None:
        running = self._running[event.key]
        run = running.run
        if run is None:
            raise ValueError(f"event must be of a stage run in training, got {event}")
        match event:
            case EpochEnded(_, metrics):
                self._record(running, run, metrics)
            case StageEnded():
                del self._running[event.key]
                self._seal(running, run, State.COMPLETE)
                running.position += 1
                self._advance(running)
            case StageFailed(_, kind, reason):
                del self._running[event.key]
                seconds = sum(epoch.seconds for epoch in self.store.epochs(run.id))
                running.seconds += seconds
                self.store.fail_stage_run(run.id, seconds)
                self.vault.discard(run.key)
                self._finish(running, State.FAILED, f"{kind}: {reason}")

    def _record(self, running: _Running, run: StageRun, metrics: EpochMetrics) -> None:
        self.store.record_epoch(run.id, metrics)
        step = running.epochs_before + metrics.epoch
        self.listener(EpochFinished(running.trial.number, step, metrics))
        if self._note(running, metrics):
            self.engine.cancel(run.key)
            del self._running[run.key]
            self._seal(running, run, State.PRUNED)
            self._finish(running, State.PRUNED)

    def _note(self, running: _Running, epoch: EpochNumbers) -> bool:
        """Report an epoch, be it new or taken over; say whether the pruner wants the trial out."""
        metric = self.config.metric
        if running.best is None or epoch.rank(metric) < running.best.rank(metric):
            running.best, running.best_run = epoch, running.run
        step = running.epochs_before + epoch.epoch
        wants_out = self.suggestions.report(running.trial.number, step, epoch.score(metric))
        return wants_out and running.trial.role is Role.EXPLORE

    def _seal(self, running: _Running, run: StageRun, state: State) -> None:
        """Give a stage run's weights their names and hashes."""
        goes_on = running.next_starts_from is not None and state is State.COMPLETE
        running.seconds += self.weights_files.seal(
            run, state, running.trial, running.epochs_before, with_last=goes_on
        )

    def _finish(self, running: _Running, state: State, failure: str | None = None) -> None:
        """End a trial, in our tables first: `reconcile` tells Optuna what a crash withheld."""
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
        trial = self._trials[number] = self.store.trial(self.study_id, number)
        story = {"seconds": round(trial.seconds, 1), "weights": file, "failure": failure}
        self.suggestions.annotate(number, {k: v for k, v in story.items() if v is not None})
        self.suggestions.tell(number, state, trial.score)
        remaining = to_go(list(self._trials.values()), self.config)
        epochs = len(self.store.epochs_of_trial(trial.id))
        self.listener(TrialFinished(trial, epochs, file, remaining))
        self._count_failures(trial)

    def _count_failures(self, trial: Trial) -> None:
        self._failures = self._failures + 1 if trial.state is State.FAILED else 0
        if self._failures >= self.config.budget.max_failures:
            raise TooManyFailures(
                f"{self._failures} trials in a row have failed, the last with {trial.failure}; "
                "mend the cause and run the same command again, or raise --max-failures"
            )
