"""A search in the head: a coordinator without database, files or training, for whole searches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from storage.records import Role, StageRun, State, Trial, stage_run_key
from study.config.schema import StudyConfig
from study.searching.candidates import anywhere
from study.searching.forecasting import explorer_of
from study.searching.policy import Action, Begin, GoOn, SearchPolicy, Standing, Stop, Verdict
from study.stage_tree import Rank, StageTree, Trained, grow
from tests.lab import trial_of
from trainers.schedule import Schedule, Train

NOW = datetime.now(UTC)


class ImaginedSearch:
    """It begins trials and takes them through their stages, whose ends are told by the test.

    `trials`, `runs`, `links`, `ranks` and `losses` are what a database has; all else is lost when
    the search is killed, but `decisions` and `completed`, which are for the test.
    """

    def __init__(
        self, config: StudyConfig, given: Sequence[Schedule] = (), *, slots: int = 1
    ) -> None:
        self.config, self.given, self.slots = config, given, slots
        self.trials: list[Trial] = []
        self.runs: dict[str, StageRun] = {}
        self.links: list[tuple[int, int, int]] = []
        self.ranks: dict[int, Rank] = {}
        self.losses: dict[int, float] = {}
        self.decisions: list[Action] = []
        self.completed: Counter[str] = Counter()
        self.tree = StageTree()
        self.training: dict[str, list[int]] = {}
        self.waiting: set[int] = set()
        self.policy = policy_of(config, given)
        self.fill()

    @property
    def standing(self) -> Standing:
        """What has been run; nothing is known of single photos, so no finalist is beaten."""
        return Standing(self.trials, self.tree, {}, self.waiting, self.suggest)

    @property
    def exploring(self) -> list[Trial]:
        """The trials that count in the total."""
        return [trial for trial in self.trials if trial.role is not Role.REPEAT]

    @property
    def running(self) -> list[Trial]:
        """The trials that have not ended."""
        return [trial for trial in self.trials if trial.state is State.RUNNING]

    @property
    def to_go(self) -> int:
        """How many trials are still to end."""
        count = self.policy.to_go(self.standing)
        assert count is not None
        return count

    @property
    def has_room(self) -> bool:
        """Whether a slot is idle, and not too many trials wait for what the others train."""
        joined = sum(len(numbers) for numbers in self.training.values())
        return len(self.training) < self.slots and joined < 2 * self.slots

    def suggest(self) -> Schedule:
        """Suggest by chance, which depends on how much there was of trials and stage runs."""
        turn = len(self.trials) + sum(node.trained is not None for node in self.tree)
        rng = np.random.default_rng([self.config.seeds.first, turn])
        return next(anywhere(self.config.resolved_space, "random", rng))

    def fill(self) -> None:
        """Do what the policy says, while there is room and something to do."""
        while self.has_room:
            action = self.policy.next_action(self.standing)
            if action is None:
                return
            self.decisions.append(action)
            match action:
                case Begin():
                    self._begin(action)
                case GoOn(number):
                    self.waiting.remove(number)
                    self._advance(number, let_on=True)
                case Stop(number):
                    self.waiting.remove(number)
                    self._end(number, State.PRUNED)

    def end(self, key: str, score: float | None, *, killed: bool = False) -> None:
        """End a stage run by a score, or by a failure, and let what follows be done.

        When `killed`, the search dies as soon as the end is written down, and is begun again.
        """
        numbers, run = self.training.pop(key), self.runs[key]
        if score is None:
            self.runs[key] = replace(run, state=State.FAILED)
            self.tree.fail(key)
            for number in numbers:
                self._end(number, State.FAILED)
            numbers = []
        else:
            self.completed[key] += 1
            self.runs[key] = replace(run, state=State.COMPLETE)
            self.ranks[run.id], self.losses[run.id] = (-score, 1 - score), 1.1 - score
            self.tree.finish(key, Trained(self.ranks[run.id], self.losses[run.id], run.seconds))
        if killed:
            self.begin_again()
        else:
            for number in numbers + self._waiting_for(run):
                self._advance(number)
            self.fill()

    def _waiting_for(self, run: StageRun) -> list[int]:
        """Take out the trials that wait to enter what is trained now."""
        nodes = {number: self.tree.last_trained(number) for number in sorted(self.waiting)}
        due = [
            number
            for number, node in nodes.items()
            if node is not None
            and node.position + 1 == run.position
            and self.key(self.trials[number], run.position) == run.key
        ]
        self.waiting.difference_update(due)
        return due

    def begin_again(self, config: StudyConfig | None = None) -> None:
        """Lose all but the rows, and go on from them, be it with other settings."""
        self.config = config or self.config
        before = [(node.key, node.trained, node.explored) for node in self.tree]
        self.policy = policy_of(self.config, self.given)
        self.tree = grow(self.trials, self.runs.values(), self.links, self.ranks, self.losses)
        assert [(node.key, node.trained, node.explored) for node in self.tree] == before
        self.training, self.waiting = {}, set()
        for trial in self.running:
            self._advance(trial.number)
        self.fill()

    def _begin(self, action: Begin) -> None:
        number = len(self.trials)
        self.trials.append(trial_of(action.schedule, number, seed=action.seed, role=action.role))
        self._advance(number)

    def _advance(self, number: int, *, let_on: bool = False) -> None:
        """Walk over what is trained, from the start; wait, end, or have the next stage trained."""
        trial = self.trials[number]
        for position, prefix in enumerate(trial.schedule.prefixes()):
            key, entered = self.key(trial, position), self.tree.has_entered(number, position)
            if not (let_on or entered or self._may_enter(trial, position, key)):
                return
            let_on &= entered
            run = self.runs.setdefault(key, self._row(key, prefix, trial))
            if not entered:
                self.links.append((number, position, run.id))
            self.tree.enter(trial, position, key)
            if run.state is not State.COMPLETE:
                self.runs[key] = replace(run, state=State.RUNNING)
                self.training.setdefault(key, []).append(number)
                return
        self._end(number, State.COMPLETE)

    def _may_enter(self, trial: Trial, position: int, key: str) -> bool:
        onward = self.tree.find(key)
        if position == 0 or (onward is not None and onward.trained):
            return True
        after = self.tree.at(trial.number, position - 1)
        assert after.trained
        match self.policy.between_stages(trial, after, self.standing):
            case Verdict.GO_ON:
                return True
            case Verdict.WAIT:
                self.waiting.add(trial.number)
            case Verdict.STOP:
                self._end(trial.number, State.PRUNED)
        return False

    def key(self, trial: Trial, position: int) -> str:
        """Return the key of the stage run that a trial needs."""
        return stage_run_key("photos", trial.schedule.prefixes()[position], trial.seed)

    def _row(self, key: str, prefix: Schedule, trial: Trial) -> StageRun:
        stage = prefix.stages[-1]
        price = 0.1 if stage.train is Train.PROBE else 1.0
        return StageRun(
            id=len(self.runs) + 1,
            study_id=1,
            key=key,
            position=len(prefix.stages) - 1,
            seed=trial.seed,
            image_size=stage.image_size,
            epochs=stage.epochs,
            state=State.RUNNING,
            trial_number=trial.number,
            seconds=price * stage.epochs * stage.image_size**2 / 1000,
            started_at=NOW,
            finished_at=None,
        )

    def _end(self, number: int, state: State) -> None:
        trial = self.trials[number]
        assert trial.state is State.RUNNING
        mine = [node for node in self.tree if number in node.trials and node.rank is not None]
        best = min((node.rank for node in mine if node.rank), default=None)
        score, loss = (None, None) if best is None else (-best[0], best[1])
        self.trials[number] = replace(trial, state=state, score=score, loss=loss)


def policy_of(config: StudyConfig, given: Sequence[Schedule]) -> SearchPolicy:
    """Make what decides, as each process does."""
    return SearchPolicy(config, explorer_of(config, "random", 100), given)
