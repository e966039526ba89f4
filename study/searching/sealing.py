"""Weights files that are sealed while the coordinator hands out jobs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue

from storage.records import StageRun
from study.searching.checkpoints import Sealed

AT_ONCE = 8
"""Stage runs that are sealed at the same time: each may hold a network in memory."""

THREAD = "sealing"


@dataclass(eq=False)
class Job:
    """A stage run whose files are being sealed, and what is to be done `then`.

    `held` counts the slots that are kept for it.
    """

    run: StageRun
    files: "Future[Sealed]" = field(default_factory=Future)
    then: list[Callable[[], None]] = field(default_factory=list)
    held: int = 0


class Sealing:
    """Seals the files of stage runs in threads; `told` is called by each when it has ended.

    Their threads end with the process, as after kill -9: the next search sweeps what they had
    begun. So a second Ctrl-C need not wait for an upload.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told
        self._jobs: dict[str, Job] = {}
        self._ended: SimpleQueue[Job] = SimpleQueue()
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def __len__(self) -> int:
        """How many stage runs are being sealed."""
        return len(self._jobs)

    @property
    def held(self) -> int:
        """How many slots are kept for trials that continue once files are sealed."""
        return sum(job.held for job in self._jobs.values())

    @property
    def put_off(self) -> int:
        """How many trials wait until files are sealed."""
        return sum(len(job.then) for job in self._jobs.values())

    def begin(self, run: StageRun, seal: Callable[[], Sealed]) -> None:
        """Have a thread seal the files of a stage run."""
        job = self._jobs[run.key] = Job(run)
        work = threading.Thread(target=self._work, args=(job, seal), name=THREAD, daemon=True)
        work.start()

    def wait(self, key: str, then: Callable[[], None], *, hold: bool) -> bool:
        """Put something off until a stage run is sealed; False, and nothing done, if none is.

        With `hold` a slot is kept for it meanwhile.
        """
        job = self._jobs.get(key)
        if job is not None:
            job.then.append(then)
            job.held += hold
        return job is not None

    def ended(self) -> Iterator[Job]:
        """Yield what has been sealed since, without waiting."""
        while not self._ended.empty():
            yield self.next()

    def next(self) -> Job:
        """Return what is sealed next; wait for it if need be."""
        job = self._ended.get()
        del self._jobs[job.run.key]
        return job

    def _work(self, job: Job, seal: Callable[[], Sealed]) -> None:
        try:
            with self._free:
                job.files.set_result(seal())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            job.files.set_exception(error)
        self._ended.put(job)
        self._told()
