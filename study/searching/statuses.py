"""The status of trials and stage runs, for all views."""

from dataclasses import dataclass
from enum import StrEnum

from storage.records import StageRun, State, StudyRecord, Trial
from storage.store import Store
from study.searching.ownership import searcher


class Status(StrEnum):
    """The status of a trial or a stage run.

    It is RUNNING only while a live search trains a stage of it. One that has not ended and is not
    being trained is WAITING: for a decision of the search, or for the search to be run again.
    """

    RUNNING = "running"
    WAITING = "waiting"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Statuses:
    """The statuses of a study.

    Whether it is `searched` now, and the numbers of trials `in_training`.
    """

    searched: bool
    in_training: frozenset[int]

    @classmethod
    def of(cls, store: Store, study: StudyRecord) -> "Statuses":
        """Return the statuses of a study, from its rows and whether its search is alive."""
        if searcher(store, study.id) is None:
            return cls(searched=False, in_training=frozenset())
        return cls(searched=True, in_training=frozenset(store.trials_in_training(study.id)))

    def of_trial(self, trial: Trial) -> Status:
        """Return the status of a trial."""
        return _status(trial.state, in_training=trial.number in self.in_training)

    def of_stage_run(self, run: StageRun) -> Status:
        """Return the status of a stage run."""
        return _status(run.state, in_training=self.searched)


def _status(state: State, *, in_training: bool) -> Status:
    if state is State.RUNNING and not in_training:
        return Status.WAITING
    return Status(state.value)
