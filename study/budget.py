"""How much device time of its budget a search has used."""

from dataclasses import dataclass

from storage.store import Store
from study.formatting import count_text, time_text


@dataclass(frozen=True)
class DeviceTime:
    """Device seconds used by all stage runs of a study, and the limit if there is one.

    Slots that share a device share its time.
    """

    seconds: float
    budget: float | None = None

    @property
    def spent(self) -> bool:
        """Whether the budget is used up, so that no further stage run may begin."""
        return self.budget is not None and self.seconds >= self.budget

    def __str__(self) -> str:
        """Return it as text: "3.2 min of 20.0 min"."""
        bound = "" if self.budget is None else f" of {time_text(self.budget)}"
        return f"{time_text(self.seconds)}{bound}"


def device_time(
    store: Store, study_id: int, workers_per_device: int, budget: float | None
) -> DeviceTime:
    """Add up the epochs of a study's stage runs, by whichever run of the command."""
    return DeviceTime(store.seconds_of_epochs(study_id) / workers_per_device, budget)


def progress_text(ended: int, to_go: int | None, time: DeviceTime) -> str:
    """Return how far a search is: trials ended and, if known, to go, and its device time."""
    left = "" if to_go is None else f", {to_go} to go"
    return f"{count_text(ended, 'trial')} done{left}, device time {time}"
