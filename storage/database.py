"""From a URL to an engine whose tables are up to date, and the kinds of transaction."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Update,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    ProgrammingError,
)

from storage import postgres, schema_version
from storage.errors import (
    DatabaseFull,
    DatabaseTooNew,
    DatabaseUnusable,
    NotADatabase,
    RowDamaged,
    StudyNotFound,
)
from storage.read_only import Source, copied, copy_of, is_read_only, source_of
from storage.redaction import redact

BUSY_SECONDS = 30
"""How long SQLite waits for another process's transaction to end."""

_LOCK = text("SELECT pg_advisory_xact_lock(111524789056101)")
"""Any number, as long as it never changes."""

_SQLITE = ("sqlite", "sqlite+pysqlite")


def open_database(url: str, *, create: bool = True) -> Engine:
    """Connect to a database and bring its tables to this Encore's revision.

    With `create=False` nothing is created: without an Encore database, StudyNotFound is raised. A
    read-only file is then opened as it is; if an earlier version wrote it, a copy is upgraded.
    Raises DatabaseUnusable, or DatabaseTooNew if a newer Encore wrote it.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        _prepare_file(parsed, create=create)
        if not create and is_read_only(Path(parsed.database or "")):
            return _open_read_only(parsed)
    engine = _engine(parsed)
    try:
        _bring_up_to_date(engine, create=create)
    except BaseException:
        engine.dispose()
        raise
    return engine


def is_written(engine: Engine) -> bool:
    """Return whether the database can be written, as far as `open_database` could see."""
    return not engine.get_execution_options().get("read_only", False)


def _open_read_only(url: URL) -> Engine:
    try:
        source = source_of(Path(url.database or ""))
    except (sqlite3.Error, OSError) as error:
        raise DatabaseUnusable(f"{url_text(url)} cannot be read: {error}") from None
    engine = _reading_engine(url, source)
    with reading(engine) as connection:
        revision = schema_version.current(connection)
    if revision is None:
        raise _nothing_there(url)
    if _is_current(revision, url):
        return engine
    engine.dispose()
    file, folder = copy_of(source)
    open_database(f"sqlite:///{file}").dispose()
    return _reading_engine(url, copied(file, folder))


def _reading_engine(url: URL, source: Source) -> Engine:
    engine = create_engine(url, creator=source.connect, execution_options={"read_only": True})
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads; an unreadable row is `RowDamaged`."""
    try:
        with _usable(engine), engine.begin() as connection:
            yield connection
    except DatabaseUnusable:
        raise
    except ValueError as error:  # invalid JSON or date
        raise RowDamaged(
            f"{url_text(engine.url)} holds a row that cannot be read ({error}); "
            "restore it from a copy"
        ) from None


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that writes: it happens as a whole or, on any exception, not at all."""
    with _usable(engine), engine.execution_options(writes=True).begin() as connection:
        yield connection


@contextmanager
def alone(engine: Engine) -> Iterator[Connection]:
    """Open a serialized write transaction, for rows that searches share.

    Without it, of two transactions that look for a row and find none, the second would fail to
    insert it. SQLite has one writer at a time anyway; on a server, other writes to different
    studies do not wait for each other.
    """
    with writing(engine) as connection:
        if connection.dialect.name != "sqlite":
            connection.execute(_LOCK)
        yield connection


def clock(connection: Connection) -> datetime:
    """Return the database's time: its server's, or this machine's if it is a file."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)


def change_one(connection: Connection, change: Update, what: str, row_id: int) -> None:
    """Update one row; LookupError, which names `what`, if it does not exist."""
    if not connection.execute(change).rowcount:
        raise LookupError(f"there is no {what} with id {row_id}")


def settings(url: str) -> tuple[str, dict[str, Any]]:
    """Return the arguments for another library's `create_engine`; the URL holds the password."""
    parsed = _parse(url)
    plain = url if parsed.drivername in _SQLITE else parsed.render_as_string(hide_password=False)
    return plain, _settings(parsed)


def adopt(engine: Engine) -> None:
    """Configure another library's engine like ours.

    Fewer syncs, or errors for an unavailable server. With SQLite's write-ahead log, a power cut can
    then undo the latest transactions, but not harm one.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sync_seldom)
        event.listen(engine, "handle_error", _tell_full)
    else:
        postgres.watch(engine, url_text(engine.url))
    engine.dispose()  # connections from before


@contextmanager
def making_tables(url: str) -> Iterator[None]:
    """Let another library make tables in a database, one process at a time."""
    parsed = _parse(url)
    if parsed.drivername != postgres.DRIVER:
        lock = Path(f"{parsed.database}.lock")
        with FileLock(lock):
            yield
        # A process that waited for the lock finds the tables.
        lock.unlink(missing_ok=True)
        return
    engine = _engine(parsed)
    try:
        with alone(engine):
            yield
    finally:
        engine.dispose()


def url_text(url: URL) -> str:
    """Return a database's URL for a message."""
    if url.get_backend_name() == "sqlite":
        # Otherwise a folder with an umlaut or a # would be shown percent-encoded.
        return redact(f"{url.drivername}:///{url.database or ''}")
    return redact(url.render_as_string(hide_password=True))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if "@" in (parsed.host or ""):  # part of a password, which a driver would print as a host
            raise ValueError("an @ in a password must be written %40")
        if parsed.get_backend_name() not in _SQLITE and ":" in (parsed.database or ""):
            raise ValueError("a login behind a third slash is taken for the database's name")
    except (ArgumentError, ValueError):
        raise NotADatabase(
            f"{redact(url)!r} is not the URL of a database; write it like sqlite:///encore.db or "
            f"{postgres.DRIVER}://user@host/database"
        ) from None
    # SQLAlchemy 2.0 would take another driver than 2.1 does.
    known = (postgres.BACKEND, postgres.DRIVER, *_SQLITE)
    if parsed.drivername not in known:
        raise NotADatabase(
            f"{redact(url)} needs the driver {parsed.drivername}, which Encore does not know; give "
            f"a file as sqlite:///encore.db, or a server as {postgres.DRIVER}://user@host/database"
        )
    return (
        parsed.set(drivername=postgres.DRIVER) if parsed.drivername == postgres.BACKEND else parsed
    )


def _prepare_file(url: URL, *, create: bool) -> None:
    name = url.database or ":memory:"
    if name == ":memory:" or name.startswith("file:"):
        raise NotADatabase(f"{url_text(url)} must name a file, as in sqlite:///encore.db")
    path = Path(name)
    try:
        if path.is_dir():
            raise NotADatabase(f"{url_text(url)} is a folder, not a database file")
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise _nothing_there(url)
    except OSError as error:
        raise DatabaseUnusable(f"{url_text(url)} cannot be used: {error.strerror}") from error


def _engine(url: URL) -> Engine:
    try:
        engine = create_engine(url, **_settings(url))
    except ModuleNotFoundError:
        raise DatabaseUnusable(
            f"{url_text(url)} needs the driver psycopg, which is not installed; {postgres.INSTALL}"
        ) from None
    if url.drivername == postgres.DRIVER:
        postgres.watch(engine, url_text(url))
        return engine
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _settings(url: URL) -> dict[str, Any]:
    if url.drivername == postgres.DRIVER:
        return postgres.connecting(url)
    return {"connect_args": {"timeout": BUSY_SECONDS}}


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Python's driver begins transactions late and only for some statements, so we begin them.
    connection.isolation_level = None
    _write_ahead(connection)
    _sync_seldom(connection, _record)
    connection.execute("PRAGMA foreign_keys = ON")


def _sync_seldom(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, where readers and the writer do not wait for each other."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite does not make two processes wait that switch a new file at the same time.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: one that read first could not take it later without failing.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _bring_up_to_date(engine: Engine, *, create: bool) -> None:
    with reading(engine) as connection:
        if connection.dialect.name != "sqlite":
            postgres.check_age(connection, url_text(engine.url))
        revision = schema_version.current(connection)
        strangers = schema_version.strangers(connection) if revision is None else []
    if revision is None and not create:
        raise _nothing_there(engine.url)
    if strangers:
        raise DatabaseUnusable(
            f"{url_text(engine.url)} holds tables of another program ({', '.join(strangers[:3])}); "
            "give Encore a database of its own"
        )
    if not _is_current(revision, engine.url):
        with alone(engine) as connection:
            # Check again under the lock: another process may just have done it.
            if not _is_current(schema_version.current(connection), engine.url):
                schema_version.upgrade(connection)


def _is_current(revision: str | None, url: URL) -> bool:
    if revision is not None and revision not in schema_version.REVISIONS:
        raise DatabaseTooNew(
            f"{url_text(url)} was written by a newer Encore (its tables are at revision "
            f"{revision}, this one knows {schema_version.REVISIONS[-1]}); upgrade encore-search"
        )
    return revision == schema_version.REVISIONS[-1]


@contextmanager
def _usable(engine: Engine) -> Iterator[None]:
    """Turn operational errors into one sentence; programming errors are not changed."""
    try:
        yield
    except (IntegrityError, ProgrammingError, DataError):
        raise
    except DatabaseError as error:
        if _is_full(error.orig):
            raise _full(engine.url) from None
        why = postgres.reason(error.orig or error, engine.url)
        raise DatabaseUnusable(f"{url_text(engine.url)} cannot be used: {why}") from None


def _is_full(error: BaseException | None) -> bool:
    """Return whether the disk is full; at a limit of file size SQLite says "disk I/O error"."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)


def _full(url: URL) -> DatabaseFull:
    return DatabaseFull(
        f"{url_text(url)} cannot be written: there is no room left; make room and run the same "
        "command again: it goes on"
    )


def _tell_full(context: ExceptionContext) -> None:
    if context.engine is not None and _is_full(context.original_exception):
        raise _full(context.engine.url)


def _nothing_there(url: URL) -> StudyNotFound:
    return StudyNotFound(f"there are no studies in {url_text(url)}; run a search first")
