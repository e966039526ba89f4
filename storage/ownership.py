"""Ownership of a study: a row with a heartbeat. Each function is part of a transaction.

Times are the database's, so that machines with different clocks agree on the age of a heartbeat.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, event, insert, select, update

from storage import liveness, rows
from storage.database import clock
from storage.errors import StudyInUse
from storage.liveness import Life
from storage.records import Owner
from storage.tables import OwnerRow, StudyRow

_WRITES = "writes"

Step = Callable[[Connection, Owner, timedelta, datetime | None], None]
"""`refuse` or `claim`."""


@dataclass(frozen=True)
class Claim:
    """A search's ownership of a study."""

    study_id: int
    token: str


def fenced(engine: Engine, claim: Claim) -> Engine:
    """Return the same database for a search, which can write there only while it owns the study."""
    own = engine.execution_options()
    fence(own, claim)
    return own


def fence(engine: Engine, claim: Claim) -> None:
    """Make each write transaction end with a check of the owner: `StudyInUse` rolls it back.

    The check is at the end, where the transaction holds the lock (SQLite) or locks the owner's row
    (PostgreSQL): no other process can take over between the check and the commit.
    """

    def note(connection: Connection, *given: Any) -> None:
        context = given[3]
        if context and (context.isinsert or context.isupdate or context.isdelete):
            connection.info[_WRITES] = True

    def look(connection: Connection) -> None:
        if connection.info.pop(_WRITES, False):
            check(connection, claim)

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "commit", look)
    event.listen(engine, "rollback", lambda connection: connection.info.pop(_WRITES, None))


def check(connection: Connection, claim: Claim) -> None:
    """Raise StudyInUse unless the study is owned; it stays so until the transaction ends."""
    own = select(OwnerRow.token).where(*_own(claim)).with_for_update(read=True)
    if connection.execute(own).first() is None:
        raise _lost(connection, claim.study_id)


def claim(
    connection: Connection, claimant: Owner, stale_after: timedelta, silent: datetime | None
) -> None:
    """Make `claimant` the study's owner, or raise StudyInUse while another one is alive."""
    # The study's row is the lock: PostgreSQL would let two processes find no owner at once.
    study = select(StudyRow.name).where(StudyRow.id == claimant.study_id).with_for_update()
    if connection.execute(study).first() is None:
        raise LookupError(f"there is no study with id {claimant.study_id}")
    refuse(connection, claimant, stale_after, silent)
    connection.execute(delete(OwnerRow).where(OwnerRow.study_id == claimant.study_id))
    connection.execute(insert(OwnerRow).values(vars(claimant)))
    used = update(StudyRow).where(StudyRow.id == claimant.study_id)
    connection.execute(used.values(used_at=claimant.started_at))


def refuse(
    connection: Connection, claimant: Owner, stale_after: timedelta, silent: datetime | None
) -> None:
    """Raise StudyInUse while the study's owner is alive.

    One on another machine counts as dead if its heartbeat is too old and still equals `silent`, the
    one that the claimant has watched.
    """
    owner = _owner(connection, claimant.study_id)
    if owner and owner.token != claimant.token:
        life = life_of(owner, claimant.host)
        quiet = claimant.started_at - owner.heartbeat_at > stale_after
        away = life is Life.UNKNOWN and quiet and owner.heartbeat_at == silent
        if not away and life is not Life.GONE:
            named = select(StudyRow.name).where(StudyRow.id == claimant.study_id)
            name = connection.execute(named).scalar_one()
            raise _in_use(name, owner, claimant.started_at, life)


def heartbeat(connection: Connection, claim: Claim) -> None:
    """Record a heartbeat of the owner; StudyInUse if another process took over."""
    own = update(OwnerRow).where(*_own(claim))
    if not connection.execute(own.values(heartbeat_at=clock(connection))).rowcount:
        raise _lost(connection, claim.study_id)


def release(connection: Connection, claim: Claim) -> None:
    """Release the study, if it is still owned."""
    connection.execute(delete(OwnerRow).where(*_own(claim)))


def life_of(owner: Owner, host: str) -> Life:
    """Return the state of an owner, as far as `host`, this machine, knows."""
    return liveness.life(owner.pid, owner.born) if owner.host == host else Life.UNKNOWN


def _own(claim: Claim) -> tuple[Any, ...]:
    return OwnerRow.study_id == claim.study_id, OwnerRow.token == claim.token


def _owner(connection: Connection, study_id: int) -> Owner | None:
    found = connection.execute(select(OwnerRow).where(OwnerRow.study_id == study_id)).first()
    return None if found is None else rows.owner(found)


def _lost(connection: Connection, study_id: int) -> StudyInUse:
    name = connection.execute(select(StudyRow.name).where(StudyRow.id == study_id)).scalar()
    owner = _owner(connection, study_id)
    if owner is None:
        return StudyInUse(f"study {name!r} is no longer owned by this process; start it again")
    return _in_use(str(name), owner, clock(connection), Life.UNKNOWN)


def _in_use(name: str, owner: Owner, now: datetime, life: Life) -> StudyInUse:
    since, today = owner.started_at.astimezone(), now.astimezone().date()
    clock = f"{since:%H:%M}" if since.date() == today else f"{since:%Y-%m-%d %H:%M}"
    who = f"process {owner.pid} on {owner.host} since {clock} (`{owner.command}`)"
    if life is Life.STOPPED:
        return StudyInUse(
            f"study {name!r} is being searched by {who}, which is stopped; continue it with `fg` "
            f"in its terminal or `kill -CONT {owner.pid}`, or end it with `kill -9 {owner.pid}`"
        )
    return StudyInUse(
        f"study {name!r} is being searched by {who}; wait for it, stop it, or give another --study"
    )
