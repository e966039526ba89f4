"""What every store promises of owners: who searches a study, and who no longer may write."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import optuna
import pytest
from sqlalchemy import MetaData, create_engine, select, update

from storage import liveness, ownership
from storage.database import open_database, settings, writing
from storage.errors import StudyInUse
from storage.liveness import Life
from storage.ownership import Claim, fenced
from storage.records import State, StudyRecord
from storage.store import Store
from storage.tables import StudyRow
from study.searching.optuna_storage import optuna_storage
from tests.contract.conftest import (
    NOW,
    STALE,
    at,
    begin,
    checkpoint,
    claim,
    epoch,
    finish,
)
from tests.engines import until


def dump(url: str) -> dict[str, list[Any]]:
    """Read all rows of all tables, past all of ours."""
    plain, options = settings(url)
    engine, tables = create_engine(plain, **options), MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = {
            name: sorted(map(repr, connection.execute(select(table))))
            for name, table in tables.tables.items()
        }
    engine.dispose()
    return found


class TestOwnerContract:
    """Run over every way to get a store."""

    def test_second_claim_is_refused_in_one_sentence(
        self, store: Store, study: StudyRecord
    ) -> None:
        """The error names the process, the host, the time and the command, and the ways out."""
        claim(store, study, "one")
        since = NOW.astimezone().strftime("%H:%M")
        with pytest.raises(StudyInUse) as caught:
            claim(store, study, "two", now=NOW + timedelta(seconds=5))
        assert str(caught.value) == (
            f"study 'planes' is being searched by process {os.getpid()} on here since {since} "
            "(`python cli.py search # one`); wait for it, stop it, or give another --study"
        )

    def test_owner_may_claim_again_and_release(self, store: Store, study: StudyRecord) -> None:
        """The same token is no conflict; after a release the study is free for all."""
        claim(store, study, "one")
        mine = claim(store, study, "one")
        owner = store.owner(study.id)
        assert owner is not None
        assert (owner.token, owner.pid, owner.started_at) == ("one", os.getpid(), NOW)
        store.release(replace(mine, token="two"))  # noqa: S106 - no secret
        assert store.owner(study.id) == owner
        store.release(mine)
        assert store.owner(study.id) is None
        claim(store, study, "two")

    def test_silent_owner_of_another_host_is_replaced_and_told(
        self, store: Store, study: StudyRecord
    ) -> None:
        """Without a heartbeat for too long another host takes over; the first learns of it."""
        one = claim(store, study, "one", host="far")
        with at(last := NOW + STALE):
            store.heartbeat(one)
        with pytest.raises(StudyInUse):
            claim(store, study, "two", now=NOW + 2 * STALE, silent=last)
        two = claim(store, study, "two", now=last + STALE + timedelta(seconds=1), silent=last)
        with pytest.raises(StudyInUse, match="search # two"):
            store.heartbeat(one)
        store.release(two)
        with pytest.raises(StudyInUse, match="no longer owned"):
            store.heartbeat(two)

    def test_an_old_heartbeat_alone_proves_nothing(self, store: Store, study: StudyRecord) -> None:
        """Its clock may be slow: what counts is that it was watched, and did not change."""
        one = claim(store, study, "one", host="far")
        for silent in (None, NOW - STALE):
            with pytest.raises(StudyInUse):
                claim(store, study, "two", now=NOW + 9 * STALE, silent=silent)
        with at(NOW + timedelta(seconds=1)):
            store.heartbeat(one)
        with pytest.raises(StudyInUse):
            claim(store, study, "two", now=NOW + 9 * STALE, silent=NOW)

    def test_dead_owner_is_replaced_at_once_on_its_own_host_only(
        self, store: Store, study: StudyRecord
    ) -> None:
        """A process that was killed holds nothing, if its pid can be asked about."""
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            claim(store, study, "one", pid=child.pid)
            with pytest.raises(StudyInUse):
                claim(store, study, "two", now=NOW + 99 * STALE, silent=NOW)
            child.kill()
        with pytest.raises(StudyInUse, match=f"process {child.pid} on here"):
            claim(store, study, "two", host="far")
        claim(store, study, "two")

    def test_stopped_owner_of_this_host_is_never_replaced(
        self, store: Store, study: StudyRecord
    ) -> None:
        """However old its heartbeat is, Ctrl-Z is no death: the sentence says how to go on."""
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            claim(store, study, "one", pid=child.pid)
            child.send_signal(signal.SIGSTOP)
            until(lambda: liveness.life(child.pid, liveness.born(child.pid)) is Life.STOPPED)
            with pytest.raises(
                StudyInUse, match=f"is stopped; .+ or end it with `kill -9 {child.pid}`"
            ):
                claim(store, study, "two", now=NOW + 99 * STALE, silent=NOW)
            child.kill()
        claim(store, study, "two")

    def test_who_lost_the_study_writes_nothing_more(
        self, store: Store, study: StudyRecord, url: str
    ) -> None:
        """Each change is refused and undone, whatever it is; reading goes on."""
        mine = claim(store, study, "one", host="far")
        own = store.fenced(mine)
        run = begin(own, study)
        trial = own.trial(study.id, 0)
        claim(store, study, "two", now=NOW + 2 * STALE, silent=NOW)
        before = dump(url)
        late: list[Callable[[], object]] = [
            lambda: own.update_config(study.id, {}),
            lambda: own.move_study(study.id, "elsewhere"),
            lambda: begin(own, study, 1),
            lambda: finish(own, trial),
            lambda: own.begin_stage_run(trial, "b" * 64, 0),
            lambda: own.record_epoch(run.id, epoch()),
            lambda: own.seal_stage_run(run.id, State.COMPLETE, 1.0, [checkpoint(run)]),
            lambda: own.fail_stage_run(run.id, 1.0),
            lambda: own.note_name(study.id, "a.safetensors", "f"),
            lambda: own.save_check("m" * 64, "{}"),
        ]
        for change in late:
            with pytest.raises(StudyInUse, match="search # two"):
                change()
        assert own.trials(study.id) == [trial]
        assert dump(url) == before

    def test_optuna_is_fenced_as_well(self, store: Store, study: StudyRecord, url: str) -> None:
        """Its trials are neither made, nor reported to, nor ended by who lost the study."""
        mine = claim(store, study, "one", host="far")
        storage = optuna_storage(url, claim=mine)
        theirs = optuna.create_study(storage=storage, study_name="planes")
        trial = theirs.ask()
        trial.report(0.5, 1)
        claim(store, study, "two", now=NOW + 2 * STALE, silent=NOW)
        before = dump(url)
        late: list[Callable[[], object]] = [
            theirs.ask,
            lambda: trial.report(0.75, 2),
            lambda: trial.suggest_float("x", 0, 1),
            lambda: trial.set_user_attr("a", 1),
            lambda: theirs.tell(trial, 0.5),
            lambda: theirs.set_user_attr("a", 1),
        ]
        for change in late:
            with pytest.raises(StudyInUse, match="search # two"):
                change()
        assert len(theirs.get_trials()) == 1
        assert dump(url) == before
        storage.engine.dispose()

    def test_a_takeover_waits_for_the_write_that_it_would_cross(
        self, store: Store, study: StudyRecord, url: str
    ) -> None:
        """Between checking the owner and the commit, no other process becomes the owner."""
        mine = claim(store, study, "one", host="far")
        other = Store(open_database(url))
        with ThreadPoolExecutor(1) as pool:
            with writing(fenced(store._engine, mine)) as connection:
                connection.execute(update(StudyRow).values(config={"a": 1}))
                ownership.check(connection, mine)
                taken = pool.submit(claim, other, study, "two", now=NOW + 2 * STALE, silent=NOW)
                with pytest.raises(TimeoutError):
                    taken.result(0.5)
            taken.result(30)
        other.close()
        assert store.study("planes").config == {"a": 1}

    def test_reused_pid_is_not_taken_for_the_owner(
        self, store: Store, study: StudyRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A later process with the dead owner's pid does not keep the study locked."""
        here = str(liveness.born(os.getpid())).rpartition("/")[0]
        with monkeypatch.context() as patch:
            patch.setattr("storage.liveness.born", lambda _pid: f"{here}/123")
            claim(store, study, "one")
        claim(store, study, "two")

    def test_another_machine_of_the_same_name_is_left_its_study(
        self, store: Store, study: StudyRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What its pids say here says nothing of them there, nor in another container."""
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            child.wait()
            with monkeypatch.context() as patch:
                patch.setattr("storage.liveness.born", lambda _pid: "another boot/pid:[1]/123")
                claim(store, study, "one", pid=child.pid)
            with pytest.raises(StudyInUse):
                claim(store, study, "two")
        claim(store, study, "two", now=NOW + STALE + timedelta(seconds=1), silent=NOW)

    def test_of_many_claims_at_once_one_wins(self, url: str, study: StudyRecord) -> None:
        """Claims are atomic: of eight coordinators that start together one gets the study."""

        def attempt(token: int) -> bool:
            own = Store(open_database(url))
            mine = Claim(study.id, str(token))
            try:
                own.claim(mine, host="here", pid=os.getpid(), command="search", stale_after=STALE)
            except StudyInUse:
                return False
            finally:
                own.close()
            return True

        # Not by `claim`: threads that patch the same clock may leave it patched.
        with at(NOW), ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(8))) == 1

    def test_claiming_what_is_not_there_is_a_lookup_error(
        self, store: Store, study: StudyRecord
    ) -> None:
        """A study that was never created cannot be owned."""
        with pytest.raises(LookupError, match="no study with id 99"):
            claim(store, replace(study, id=99), "one")
