"""Who may search a study: an owner row with a heartbeat. Each function is part of a transaction."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from storage import liveness, rows
from storage.errors import StudyInUse
from storage.records import Owner
from storage.tables import OwnerRow, StudyRow


def claim(connection: Connection, claimant: Owner, stale_after: timedelta) -> None:
    """Make `claimant` the study's owner, or raise StudyInUse while another one lives."""
    # The study's row is the lock: PostgreSQL would let two processes find no owner at once.
    study = select(StudyRow.name).where(StudyRow.id == claimant.study_id).with_for_update()
    name = connection.execute(study).scalar_one_or_none()
    if name is None:
        raise LookupError(f"there is no study with id {claimant.study_id}")
    owner = _owner(connection, claimant.study_id)
    if owner and owner.token != claimant.token and not _is_gone(owner, claimant, stale_after):
        raise _in_use(name, owner, claimant.started_at)
    connection.execute(delete(OwnerRow).where(OwnerRow.study_id == claimant.study_id))
    connection.execute(insert(OwnerRow).values(vars(claimant)))
    used = update(StudyRow).where(StudyRow.id == claimant.study_id)
    connection.execute(used.values(used_at=claimant.started_at))


def heartbeat(connection: Connection, study_id: int, token: str, now: datetime) -> None:
    """Say that the owner with `token` lives; StudyInUse if it is no longer the owner."""
    own = update(OwnerRow).where(OwnerRow.study_id == study_id, OwnerRow.token == token)
    if connection.execute(own.values(heartbeat_at=now)).rowcount:
        return
    name = connection.execute(select(StudyRow.name).where(StudyRow.id == study_id)).scalar()
    owner = _owner(connection, study_id)
    if owner is None:
        raise StudyInUse(f"study {name!r} is no longer owned by this process; start it again")
    raise _in_use(str(name), owner, now)


def release(connection: Connection, study_id: int, token: str) -> None:
    """Give the study up, if the owner is the one with `token`."""
    own = delete(OwnerRow).where(OwnerRow.study_id == study_id, OwnerRow.token == token)
    connection.execute(own)


def _owner(connection: Connection, study_id: int) -> Owner | None:
    found = connection.execute(select(OwnerRow).where(OwnerRow.study_id == study_id)).first()
    return None if found is None else rows.owner(found)


def _is_gone(owner: Owner, claimant: Owner, stale_after: timedelta) -> bool:
    if claimant.started_at - owner.heartbeat_at > stale_after:
        return True
    return owner.host == claimant.host and not liveness.alive(owner.pid, owner.born)


def _in_use(name: str, owner: Owner, now: datetime) -> StudyInUse:
    since, today = owner.started_at.astimezone(), now.astimezone().date()
    clock = f"{since:%H:%M}" if since.date() == today else f"{since:%Y-%m-%d %H:%M}"
    return StudyInUse(
        f"study {name!r} is being searched by process {owner.pid} on {owner.host} since {clock} "
        f"(`{owner.command}`); wait for it, stop it, or give another --study"
    )
