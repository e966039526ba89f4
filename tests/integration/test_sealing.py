"""Weights files are sealed by threads: no slot waits for another's file, and nothing else changes.

Whatever waits here waits for an event, which a search that seals in its own thread never brings.
"""

import errno
import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from storage.records import State
from storage.vault import StoredFile
from study.engines.base import EpochEnded, Event, StageEnded, Woken
from study.errors import TooManyFailures
from study.searching import coordinator
from tests.crashes import Crash, check_end, crash_in
from tests.engines import Interleaved, until
from tests.lab import Bench, Lab, Noting, schedule, stage

MakeLab = Callable[..., Lab]

PATIENCE = 20.0
SLOTS = 8


class Engine(Interleaved):
    """Lets go of `vault`'s files once it has nothing to train, or as soon as `opens` says so."""

    def __init__(
        self, trainer: Noting, slots: int, opens: Callable[[Event], bool] = lambda _: False
    ) -> None:
        super().__init__(trainer, slots=slots)
        self.go, self.opens = threading.Event(), opens
        self.at_rest: list[int] = []
        """How many stage runs had been trained whenever nothing was left to train."""

    def events(self) -> Generator[Event, None, None]:
        """Train in turns."""
        try:
            for event in super().events():
                if self.opens(event):
                    self.go.set()
                yield event
            self.at_rest.append(len(self._trainer.trained))  # type: ignore[attr-defined]
        finally:
            self.go.set()


@pytest.fixture
def make_slow(make_lab: MakeLab) -> Callable[..., tuple[Lab, Callable[[], Any]]]:
    """Return what makes a lab, and what searches there while its vault waits for the engine."""

    def make(
        *script: Any,
        slots: int = SLOTS,
        opens: Callable[[Event], bool] = lambda _: False,
        look: Callable[[Bench], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> tuple[Lab, Callable[[], Engine]]:
        lab = make_lab(*script, **settings)
        lab.make_engine = lambda trainer: Engine(trainer, slots, opens)

        def search() -> Engine:
            with lab.bench(stop) as bench:
                engine, real = bench.engine, bench.vault.seal
                assert isinstance(engine, Engine)

                def seal(*given: Any) -> StoredFile:
                    assert engine.go.wait(PATIENCE), "training waits for a file"
                    look(bench)
                    return real(*given)

                bench.vault.seal = seal  # type: ignore[method-assign]
                bench.coordinator.run()
                return engine

        return lab, search

    return make


def test_no_slot_waits_for_a_file(make_slow: Callable[..., Any]) -> None:
    """Eight slots train sixteen trials while no file can be sealed; then each has its row."""
    script = [schedule(stage(32 + 8 * number)) for number in range(2 * SLOTS)]
    rows: list[int] = []

    def look(bench: Bench) -> None:
        states = {trial.state for trial in bench.store.trials(bench.study.id)}
        if not rows:
            assert states == {State.RUNNING}
        rows.append(len(bench.store.checkpoints(bench.study.id)))

    lab, search = make_slow(*script, look=look)
    assert search().at_rest[0] == len(script)
    assert rows[0] == 0, "a row points to a file that is not there yet"
    lab.check_order()


def test_a_trial_goes_on_from_its_own_file_and_no_other_waits(
    make_slow: Callable[..., Any], make_lab: MakeLab
) -> None:
    """Two stages beside one of many epochs, which are trained though nothing can be sealed."""
    long = schedule(stage(64, epochs=9))
    script = [schedule(stage(32), stage(48)), long]
    ended: list[int] = []

    def opens(event: Event) -> bool:
        ended.append(event.metrics.epoch if isinstance(event, EpochEnded) else 0)
        return 9 in ended

    lab, search = make_slow(*script, slots=2, opens=opens)
    search()
    lab.check_order()
    calm = make_lab(*script)
    calm.search()
    assert lab.outcome() == calm.outcome()


def test_who_waits_for_workers_is_woken_when_a_file_is_whole(make_lab: MakeLab) -> None:
    """A trial goes on at once, and not only when another one's epoch has ended."""
    woken: list[bool] = []

    class Sleeping(Interleaved):
        def __init__(self, trainer: Noting) -> None:
            super().__init__(trainer, slots=2)
            self.rung = threading.Event()

        def wake(self) -> None:
            self.rung.set()

        def events(self) -> Generator[Event, None, None]:
            for event in super().events():
                yield event
                if isinstance(event, StageEnded) and not woken:
                    woken.append(self.rung.wait(PATIENCE))
                    before = len(self._waiting)
                    yield Woken()
                    woken.append(len(self._waiting) == before + 1)

    lab = make_lab(schedule(stage(32), stage(48)), schedule(stage(64, epochs=3)))
    lab.make_engine = Sleeping
    lab.search()
    assert woken == [True, True]


def test_a_search_that_is_stopped_writes_down_what_it_has_trained(
    make_slow: Callable[..., Any],
) -> None:
    """What was being sealed gets its row before the command ends."""
    seen: list[Event] = []

    def opens(event: Event) -> bool:
        seen.append(event)
        return False

    def stop() -> bool:
        return any(isinstance(event, StageEnded) for event in seen)

    script = [schedule(stage(32)), schedule(stage(64, epochs=5))]
    lab, search = make_slow(*script, slots=2, opens=opens, stop=stop)
    search()
    with lab.reading() as (store, study, _):
        assert [trial.state for trial in store.trials(study.id)] == [State.COMPLETE, State.RUNNING]
    lab.check_order(over=False)


def test_too_many_failures_leave_what_was_trained_sealed(make_slow: Callable[..., Any]) -> None:
    """The one that was trained before them is complete, with its file."""
    bad = [schedule(stage(64 + 8 * number, 50.0)) for number in range(2)]
    lab, search = make_slow(schedule(stage(32)), *bad, slots=2, max_failures=2)
    with pytest.raises(TooManyFailures):
        search()
    with lab.reading() as (store, study, _):
        states = [trial.state for trial in store.trials(study.id)]
    assert states == [State.COMPLETE, State.FAILED, State.FAILED]
    lab.check_order(over=False)


def test_a_disk_that_is_full_ends_the_search(make_lab: MakeLab) -> None:
    """What goes wrong in a thread is raised by the search; with room again it goes on."""
    lab = make_lab(schedule(stage(32), stage(48)), schedule(stage(64, epochs=3)))
    lab.make_engine = lambda trainer: Interleaved(trainer, slots=2)
    with lab.bench() as bench:

        def full(*_: Any) -> StoredFile:
            raise OSError(errno.ENOSPC, "No space left on device")

        bench.vault.seal = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space left"):
            bench.coordinator.run()
    lab.search()
    lab.check_order()


@pytest.mark.parametrize(
    ("method", "when"),
    [
        ("seal", "after"),
        pytest.param("discard", "before", marks=pytest.mark.long),
        pytest.param("seal", "before", marks=pytest.mark.long),
        pytest.param("discard", "after", marks=pytest.mark.long),
    ],
)
def test_killed_while_files_are_sealed_the_end_is_the_same(
    make_lab: MakeLab, method: str, when: str, every: bool
) -> None:
    """Others have trained on meanwhile; what was begun is swept, and sealed again."""
    script = [schedule(stage(32), stage(48)), schedule(stage(64, epochs=3)), schedule(stage(32))]
    calm = make_lab(*script)
    calm.search()
    for call in (1, 2, 3) if every else (2,):
        lab = make_lab(*script)
        lab.make_engine = lambda trainer: Interleaved(trainer, slots=2)
        with lab.bench() as bench:
            crash_in(bench, "vault", method, call, after=when == "after")
            with pytest.raises(Crash):
                bench.coordinator.run()
        check_end(lab, calm.outcome(), f"{when} call {call} of {method}")


def renamed(lab: Lab, name: str) -> None:
    """Make what was searched another study of the database."""
    with closing(sqlite3.connect(lab.url.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE encore_studies SET name = ?", (name,))
        connection.execute("UPDATE studies SET study_name = ?", (name,))
        connection.commit()


@pytest.mark.parametrize("there", [True, False])
def test_no_slot_waits_for_files_of_another_study(
    make_slow: Callable[..., Any], there: bool
) -> None:
    """They are copied while others train, and a trial goes on from them; gone, it is trained."""
    shared, long = schedule(stage(32), stage(48)), schedule(stage(64, epochs=9))
    ended: list[int] = []

    def opens(event: Event) -> bool:
        ended.append(event.metrics.epoch if isinstance(event, EpochEnded) else 0)
        return 9 in ended

    lab, search = make_slow(shared, slots=2, opens=opens)
    lab.search()
    with lab.reading() as (store, study, vault):
        expected = [run.key for run in store.stage_runs(study.id)]
        for file in () if there else store.checkpoints(study.id):
            vault.path(file.path).unlink()
    renamed(lab, "first")
    lab.configure([shared, long])
    lab.trainer.trained.clear()
    search()
    with lab.reading() as (store, study, _):
        taken = [run.key for run in store.stage_runs(study.id) if run.taken_from == "first"]
    assert sorted(taken) == sorted(expected if there else [])
    assert len(lab.trainer.trained) == (1 if there else 3)
    lab.check_order()


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_files_of_another_study_are_copied(make_lab: MakeLab, when: str) -> None:
    """What was begun is swept, and copied again."""
    lab = make_lab(schedule(stage(32), stage(48)))
    lab.search()
    renamed(lab, "first")
    lab.trainer.trained.clear()
    lab.make_engine = lambda trainer: Interleaved(trainer, slots=2)
    with lab.bench() as bench:
        crash_in(bench, "vault", "seal", 1, after=when == "after")
        with pytest.raises(Crash):
            bench.coordinator.run()
    lab.search()
    assert lab.trainer.trained == []
    lab.check_order()


def test_retention_leaves_files_that_are_being_sealed(make_lab: MakeLab) -> None:
    """They lie there and have no rows yet: neither are they deleted, nor do they count."""
    script = [schedule(stage(32 + 8 * number)) for number in range(4)]
    lab = make_lab(*script, max_disk="1B")
    found: list[set[Path]] = []
    go = threading.Event()

    class Tidying(Interleaved):
        def events(self) -> Generator[Event, None, None]:
            yield from super().events()
            if not found:
                until(lambda: len(set(bench.vault.root.glob("*.safetensors"))) == len(script))
                found.append(set(bench.vault.root.glob("*.safetensors")))
                bench.coordinator._tidy()
                found.append(set(bench.vault.root.glob("*.safetensors")))
                go.set()

    lab.make_engine = lambda trainer: Tidying(trainer, slots=4)
    with lab.bench() as bench:
        real = bench.vault.seal

        def seal(*given: Any) -> StoredFile:
            stored = real(*given)
            assert go.wait(PATIENCE), "training waits for a file"
            return stored

        bench.vault.seal = seal  # type: ignore[method-assign]
        bench.coordinator.run()
    assert found[0] == found[1]
    lab.check_order()


def test_no_slot_waits_for_a_deletion(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is hashed before it goes: that takes as long as to seal it. Rows go at once."""
    monkeypatch.setattr(coordinator, "TIDY_EVERY", 2)
    lab = make_lab(*(schedule(stage(32 + 8 * number)) for number in range(6)), keep=1)
    lab.make_engine = lambda trainer: Engine(trainer, 2)
    found: list[bool] = []
    with lab.bench() as bench:
        engine, real = bench.engine, bench.vault.delete
        assert isinstance(engine, Engine)

        def delete(path: str, sha256: str) -> None:
            assert engine.go.wait(PATIENCE), "training waits for a deletion"
            found.append(path in {file.path for file in bench.store.checkpoints(bench.study.id)})
            real(path, sha256)

        bench.vault.delete = delete  # type: ignore[method-assign]
        bench.coordinator.run()
    assert engine.at_rest[0] == 6
    assert found
    assert not any(found)
    lab.check_order()
