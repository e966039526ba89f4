"""Progress of epochs on a Ray cluster: workers write it to an actor, which the engine reads."""

import time
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.engines.base import BatchesDone, Watcher
from study.engines.inline import TELL_EVERY


class ProgressBoard:
    """An actor beside the engine. A worker's own actor could not be asked: it is training."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        made: Any = ray.remote(_Board)
        self._actor = made.options(num_cpus=0, scheduling_strategy=here).remote()
        self._asked: Any = None
        self._next = 0.0

    @property
    def writer(self) -> Watcher:
        """Writes a worker's progress without waiting; it can be pickled."""
        return partial(_write, self._actor)

    def read(self) -> list[BatchesDone]:
        """Return what was written since the last read, without waiting."""
        if self._asked is None:
            if time.monotonic() >= self._next:
                self._asked = self._actor.take.remote()
            return []
        if not ray.wait([self._asked], timeout=0)[0]:
            return []
        asked, self._asked, self._next = self._asked, None, time.monotonic() + TELL_EVERY
        try:
            written: list[BatchesDone] = ray.get(asked)
        except RayError:  # the actor is lost; the search continues without it
            self._next = float("inf")
            return []
        return written

    def close(self) -> None:
        """End the actor."""
        with suppress(RayError):
            ray.kill(self._actor)


class _Board:
    """Holds the latest progress of each stage run."""

    def __init__(self) -> None:
        self._latest: dict[str, BatchesDone] = {}

    def write(self, said: BatchesDone) -> None:
        self._latest[said.key] = said

    def take(self) -> list[BatchesDone]:
        latest, self._latest = self._latest, {}
        return list(latest.values())


def _write(board: Any, said: BatchesDone) -> None:
    with suppress(RayError):
        board.write.remote(said)
