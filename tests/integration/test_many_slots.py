"""Many slots at once under the forecast: none stands still while there is something to begin."""

import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from storage.records import State
from study.engines.base import Event, StageEnded, Woken
from study.searching.sealing import THREAD
from tests.engines import Interleaved
from tests.lab import Lab, Noting
from trainers.base import StageTask

SPACE: dict[str, Any] = {
    "n_stages": [1, 2],
    "image_size": [32, 64],
    "batch_size": [8],
    "lrs": [round(1e-3 * 1.2**step, 6) for step in range(20)],
    "dropout": [step / 80 for step in range(40)],
    "stages": [{"image_size": [32]}],
}


class Watched(Interleaved):
    """Notes at each event how many slots train, and how many events came before the last trial."""

    def __init__(self, trainer: Noting, slots: int) -> None:
        super().__init__(trainer, slots=slots)
        self.busy: list[int] = []
        self.before_last = 0

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run."""
        super().submit(key, task)
        if task.start is None:
            self.before_last = len(self.busy)

    def events(self) -> Generator[Event, None, None]:
        """Train in turns."""
        for event in super().events():
            self.busy.append(len(self._training) + isinstance(event, StageEnded))
            yield event
            if isinstance(event, StageEnded):
                # Its own file a slot may have to wait for; here an epoch takes no time at all.
                for thread in threading.enumerate():
                    if thread.name == THREAD:
                        thread.join()
                yield Woken()


@pytest.mark.slow
def test_none_of_256_slots_is_idle_while_anything_is_left(make_lab: Callable[..., Lab]) -> None:
    """Until the last trial is begun all slots train; each stage run is trained once.

    After that a trial that promises nothing any more is stopped, and its slot stays empty.
    """
    slots, trials = 256, 400
    lab = make_lab(trials=trials, strategy="forecast", space=SPACE, sampler="random")
    engines: list[Watched] = []

    def make(trainer: Noting) -> Watched:
        engines.append(Watched(trainer, slots))
        return engines[-1]

    lab.make_engine = make
    lab.search()
    (engine,) = engines
    assert engine.before_last > trials / 2
    assert set(engine.busy[: engine.before_last]) == {slots}
    assert len(lab.trainer.trained) == len(set(lab.trainer.trained))
    with lab.reading() as (store, study, _):
        states = [trial.state for trial in store.trials(study.id)]
    assert len(states) == trials
    assert State.RUNNING not in states
