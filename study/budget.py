"""What a search has spent of its budget, in time of devices."""

from dataclasses import dataclass

from storage.store import Store
from study.formatting import count_text, time_text


@dataclass(frozen=True)
class DeviceTime:
    """Seconds of devices that a study's stage runs took together, and may take, if it is bounded.

    Those that share a device share its time.
    """

    seconds: float
    budget: float | None = None

    @property
    def spent(self) -> bool:
        """Whether the budget is used, so that no further stage run is to be begun."""
        return self.budget is not None and self.seconds >= self.budget

    def __str__(self) -> str:
        """Say it as people do: "3.2 min of 20.0 min"."""
        bound = "" if self.budget is None else f" of {time_text(self.budget)}"
        return f"{time_text(self.seconds)}{bound}"


def device_time(
    store: Store, study_id: int, workers_per_device: int, budget: float | None
) -> DeviceTime:
    """Add up the epochs of a study's stage runs, by whichever run of the command."""
    return DeviceTime(store.seconds_of_epochs(study_id) / workers_per_device, budget)


def progress_text(ended: int, to_go: int | None, time: DeviceTime) -> str:
    """Say how far a search is: trials, as far as their number is known, and time of devices."""
    left = "" if to_go is None else f", {to_go} to go"
    return f"{count_text(ended, 'trial')} done{left}, device time {time}"
