"""How much faster several workers train on one device than one: a short measurement."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from study.engines.base import Engine, EpochEnded, StageFailed
from trainers.base import StageTask

COUNTS = (2, 4)
"""Workers that are tried beside one."""

EPOCHS = 9
"""Epochs that each of them trains: counted while all are between their first and their last."""


@dataclass(frozen=True)
class Crowd:
    """So many `workers` of one device train `times` as many epochs a second as one."""

    workers: int
    times: float


def crowds(
    engine_of: Callable[[int], Engine],
    task: StageTask,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Crowd]:
    """Time a stage in one worker and in several at once; `engine_of` makes engines of so many.

    More are not tried where fewer were slower than before, or memory was short. Each task trains in
    a folder of its own beside the given one.
    """
    alone = best = _rate(engine_of(1), task, clock)
    for workers in COUNTS if alone else ():
        rate = _rate(engine_of(workers), task, clock)
        if alone is None or best is None or rate is None:
            return
        yield Crowd(workers, rate / alone)
        if rate < best:
            return
        best = rate


def _rate(engine: Engine, task: StageTask, clock: Callable[[], float]) -> float | None:
    """Return the epochs a second of all slots at work; None if a stage failed or none overlapped.

    The first round starts the workers, so that the second begins in all at the same time.
    """
    stage = replace(task.stage, cycle_len=EPOCHS)
    ended: defaultdict[str, list[float]] = defaultdict(list)
    with closing(engine):
        for number, schedule in enumerate((task.schedule, replace(task.schedule, stages=(stage,)))):
            ended.clear()
            for slot in range(engine.slots):
                name = f"{task.folder.name} {engine.slots} {slot} {number}"
                folder = Path(task.folder.parent, name)
                folder.mkdir()
                engine.submit(name, replace(task, schedule=schedule, folder=folder))
            for event in engine.events():
                if isinstance(event, StageFailed):
                    return None
                if isinstance(event, EpochEnded):
                    ended[event.key].append(clock())
    begun = max(times[0] for times in ended.values())
    over = min(times[-1] for times in ended.values())
    inside = [[each for each in times if begun <= each <= over] for times in ended.values()]
    if min(map(len, inside)) < 2:
        return None
    return sum((len(times) - 1) / (times[-1] - times[0]) for times in inside)
