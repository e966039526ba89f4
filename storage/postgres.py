"""PostgreSQL: connection options, its errors, and lost connections."""

import time
from datetime import datetime
from typing import Any

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from storage.errors import DatabaseAway, DatabaseUnusable
from storage.redaction import HIDDEN, is_harmless, redact_text

BACKEND = "postgresql"
DRIVER = "postgresql+psycopg"
INSTALL = "pip install 'encore-search[postgres]' (from a checkout: pip install '.[postgres]')"

OLDEST = (12,)
"""The oldest PostgreSQL that is known to work."""

_CONNECTION = {
    "connect_timeout": 10,
    # Otherwise a server that vanishes would be noticed only after a quarter of an hour.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
    "application_name": "encore",
}

_LATER = ("57P01", "57P02", "57P03", "57P05", "53300", "40001", "40P01")
"""SQLSTATEs: it shuts down or starts up, has no room for one more, or broke a deadlock."""

_FORBIDDEN = ("42501", "3F000")
"""SQLSTATEs: no right to do this, and no schema to do it in."""

_ADVICE = (
    ("password", "check the user and the password in --storage"),
    ('role "', "check the user in --storage"),
    ('database "', "create it with `createdb`, or check its name in --storage"),
    ("pg_hba.conf", "have the server's pg_hba.conf let this machine in"),
    ("connection option", "check the options after the ? in --storage"),
)
_Session = tuple[int, datetime]
"""A session's process and start: the number alone may be reused."""

_SESSION, _BLINK = "session", 0.01
_OWN = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
)
_LOOK = "check the host and the port in --storage, and that the server runs"


def connecting(url: URL) -> dict[str, Any]:
    """Return the arguments of `create_engine` for a server; the URL's options take precedence."""
    own = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    return {"connect_args": own, "pool_pre_ping": True}


def watch(engine: Engine, place: str) -> None:
    """Make an engine raise `DatabaseAway`, with a sentence about `place`, if waiting may help.

    It must be raised at the source: Optuna would wrap the driver's error, or handle it as another
    kind. A retry finds a lost transaction either committed or rolled back: its session is ended
    before the next one begins.
    """
    lost: list[_Session] = []

    def tell(context: ExceptionContext) -> None:
        if context.sqlalchemy_exception is None or context.is_pre_ping:
            return  # not the driver's, or a connection from before an outage, which is replaced
        error = context.original_exception
        found = reason(error, engine.url)
        if context.connection is None:
            advice = next((advice for part, advice in _ADVICE if part in found), _LOOK)
            raise DatabaseAway(f"{place} cannot be reached: {found}; {advice}")
        state = getattr(error, "sqlstate", None)
        if state in _FORBIDDEN:
            raise DatabaseUnusable(
                f"{place} cannot be used: {found}; have its owner let this user create tables"
            )
        if context.is_disconnect and (session := context.connection.info.get(_SESSION)):
            lost.append(session)
        if context.is_disconnect or state in _LATER:
            raise DatabaseAway(f"{place} has stopped answering: {found}")

    def begin(connection: Any, record: ConnectionPoolEntry) -> None:
        while lost:
            _end(connection, lost[-1])
            lost.pop()
        record.info[_SESSION] = connection.execute(_OWN).fetchone()
        connection.rollback()

    event.listen(engine, "handle_error", tell)
    event.listen(engine, "connect", begin)


def _end(connection: Any, session: _Session) -> None:
    """End a session whose connection was lost, and whose last COMMIT may still be running."""
    while connection.execute(_TERMINATE, session).fetchone():
        connection.rollback()  # else it would see the same sessions for ever
        time.sleep(_BLINK)


def check_age(connection: Connection, place: str) -> None:
    """Raise `DatabaseUnusable` if the server is older than `OLDEST`."""
    found = connection.dialect.server_version_info
    if found is not None and found < OLDEST:
        raise DatabaseUnusable(
            f"{place} is PostgreSQL {'.'.join(map(str, found))}, and Encore needs "
            f"{OLDEST[0]} or newer; upgrade the server, or drop --storage"
        )


def reason(error: BaseException, url: URL) -> str:
    """Return the line of an error's text with the reason, without secrets of the URL."""
    lines = [line.strip(" \t-") for line in str(error).splitlines()]
    # A name with several addresses: "All failures were:", and then one after the other.
    line = next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
    # It may quote its input: a password, or the name of a service.
    given = [(name, value) for name, values in url.normalized_query.items() for value in values]
    for secret in (url.password, *(value for name, value in given if not is_harmless(name, value))):
        line = line.replace(str(secret), HIDDEN) if secret else line
    return redact_text(line)
