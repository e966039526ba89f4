"""Weights files that are sealed and deleted while the coordinator hands out jobs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

AT_ONCE = 8
"""Jobs that are worked on at the same time: each may hold a network in memory."""

THREAD = "sealing"


T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """What a thread does with files; `record` takes its result, and `then` comes what waits for it.

    `held` counts the slots that are kept for that.
    """

    key: str
    record: Callable[[Any], None]
    result: "Future[Any]" = field(default_factory=Future)
    then: list[Callable[[], None]] = field(default_factory=list)
    held: int = 0

    def end(self) -> None:
        """Record the result, and do what was put off; raises what the thread has raised."""
        self.record(self.result.result())
        for then in self.then:
            then()


class Sealing:
    """Seals and deletes files in threads; `told` is called by each when it has ended.

    Their threads end with the process, as after kill -9: the next search sweeps what they had
    begun. So a second Ctrl-C need not wait for an upload.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told
        self._jobs: dict[str, Job] = {}
        self._ended: SimpleQueue[Job] = SimpleQueue()
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def __len__(self) -> int:
        """How many jobs have not ended."""
        return len(self._jobs)

    @property
    def held(self) -> int:
        """How many slots are kept for trials that continue once files are sealed."""
        return sum(job.held for job in self._jobs.values())

    @property
    def put_off(self) -> int:
        """How many trials wait until files are sealed."""
        return sum(len(job.then) for job in self._jobs.values())

    def begin(self, key: str, work: Callable[[], T], record: Callable[[T], None]) -> None:
        """Have a thread do some work, that of a stage run under its key."""
        job = self._jobs[key] = Job(key, record)
        thread = threading.Thread(target=self._work, args=(job, work), name=THREAD, daemon=True)
        thread.start()

    def wait(self, key: str, then: Callable[[], None], *, hold: bool) -> bool:
        """Put something off until a job has ended; False, and nothing done, if there is none.

        With `hold` a slot is kept for it meanwhile.
        """
        job = self._jobs.get(key)
        if job is not None:
            job.then.append(then)
            job.held += hold
        return job is not None

    def ended(self) -> Iterator[Job]:
        """Yield the jobs that have ended since, without waiting."""
        while not self._ended.empty():
            yield self.next()

    def next(self) -> Job:
        """Return the job that ends next; wait for it if need be."""
        job = self._ended.get()
        del self._jobs[job.key]
        return job

    def _work(self, job: Job, work: Callable[[], object]) -> None:
        try:
            with self._free:
                job.result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            job.result.set_exception(error)
        self._ended.put(job)
        self._told()
