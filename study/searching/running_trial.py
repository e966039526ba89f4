"""A running trial."""

from dataclasses import dataclass

from storage.records import Kind, StageRun, Trial
from trainers.metrics import EpochNumbers
from trainers.schedule import Train


@dataclass(eq=False)
class RunningTrial:
    """`best` is the trial's best epoch so far, in stage run `best_run`; `steps` are its epochs.

    `resumed` says that an earlier run of the search had begun it.
    """

    trial: Trial
    run: StageRun | None = None
    position: int = 0
    seconds: float = 0.0
    steps: int = 0
    best: EpochNumbers | None = None
    best_run: StageRun | None = None
    resumed: bool = False

    @property
    def epochs_before(self) -> int:
        """Epochs of the stages before the current one."""
        return sum(stage.epochs for stage in self.trial.schedule.stages[: self.position])

    @property
    def in_last_stage(self) -> bool:
        """Whether its current stage is its last, and trains the network."""
        stages = self.trial.schedule.stages
        return self.position == len(stages) - 1 and stages[-1].train is not Train.PROBE

    @property
    def next_starts_from(self) -> Kind | None:
        """Which weights of the current stage the next one needs, if there is a next one."""
        following = self.trial.schedule.stages[self.position + 1 :]
        return Kind(following[0].start_from) if following else None
