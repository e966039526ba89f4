"""A search that dies at any point, and what must come of it when it is taken up again."""

from collections.abc import Callable, Generator, Iterable
from typing import Any, NoReturn

from storage.records import State
from study.events import Notice, Progress, Working
from tests.lab import Bench, Lab, Noting
from trainers.base import BEST, LAST, StageTask
from trainers.metrics import EpochMetrics


class Crash(BaseException):
    """What no `except Exception` holds up, as kill -9."""


def die(bench: Bench) -> NoReturn:
    """Die, and have the trainer write nothing on the way out."""
    bench.trainer.killed = True
    raise Crash


class Behind(Noting):
    """Writes its files `lag` epochs late, as a trainer may, until the stage ends or is left."""

    lag = 2

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as the synthetic trainer does; a kill finds older files than it wrote."""
        files = [task.folder / name for name in (LAST, BEST)]
        written = [[path.read_bytes() if path.exists() else None for path in files]]

        def put(contents: list[bytes | None]) -> None:
            for path, content in zip(files, contents, strict=True):
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(content)

        for metrics in super().train(task):
            written.append([path.read_bytes() if path.exists() else None for path in files])
            if metrics.epoch < task.stage.epochs:
                put(written[max(0, len(written) - 1 - self.lag)])
            try:
                yield metrics
            finally:
                if not self.killed:
                    put(written[-1])


def crash_in(bench: Bench, owner: str, method: str, call: int, *, after: bool) -> None:
    """Have the n-th call of a method die before or after it has done its work."""
    real, calls = getattr(getattr(bench, owner), method), 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            die(bench)
        result = real(*arguments, **options)
        if calls == call:
            die(bench)
        return result

    setattr(getattr(bench, owner), method, deadly)


def crashes(lab: Lab, prepare: Callable[[Bench], None]) -> bool:
    """Search until it crashes; False if it never does."""
    with lab.bench() as bench:
        prepare(bench)
        try:
            bench.coordinator.run()
        except Crash:
            return True
    return False


def chosen(moments: int, *, every: bool) -> Iterable[int]:
    """Return which of so many moments to die at: each, or one early and one late in the search."""
    return range(moments) if every else (moments // 3, moments - 2)


def check_end(lab: Lab, expected: dict[str, Any], where: str) -> None:
    """Check that the search, taken up again, ends as it should."""
    lab.check_order(over=False)
    lab.search()
    lab.check_order()
    assert lab.outcome() == expected, where
    theirs = lab.optuna_trials()
    with lab.reading() as (store, study, _):
        ours = store.trials(study.id)
        for trial in ours:
            their = theirs.pop(trial.number)
            scores = [epoch.score(study.metric) for epoch in store.epochs_of_trial(trial.id)]
            assert their.reported == dict(enumerate(scores, 1)), where
            if trial.state is State.COMPLETE:
                assert their.value == trial.score, where
    # What was suggested to a search that died before it wrote it down is given up.
    assert {trial.state for trial in theirs.values()} <= {"FAIL"}, where


def is_step(news: Progress) -> bool:
    """Return whether this says how far the search is, and not what it does meanwhile."""
    return not isinstance(news, Working | Notice)


def dies_at(event: int) -> Callable[[Bench], None]:
    """Have the listener die at an event that tells how far the search is."""

    def prepare(bench: Bench) -> None:
        told = 0

        def listen(news: Progress) -> None:
            nonlocal told
            told += is_step(news)
            if told > event:
                die(bench)

        bench.coordinator.listener = listen

    return prepare
