"""A real PostgreSQL server for the tests, from the machine's own binaries, and a line to it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest

from tests.engines import until

USER, PASSWORD = "encore", "hun/ter2@{é}%"
QUOTED = quote(PASSWORD, safe="")
QUIET = ("fsync=off", "shared_buffers=16MB", "wal_level=minimal", "max_wal_senders=0")
"""Settings of a server that need not outlive the machine's loss of power."""


EMPTY = """
DO $$ BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    EXECUTE (
        SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' RESTART IDENTITY'
        FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '%version%'
    );
END $$
"""


def binaries() -> Path | None:
    """Find the folder with `initdb` and `postgres`, of the newest version."""
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).parent
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((path.parent for path in found), key=lambda f: int(f.parent.name), default=None)


class Server:
    """A server in a folder of its own; `with` starts it and leaves nothing behind."""

    def __init__(self, settings: tuple[str, ...] = QUIET) -> None:
        self._settings = settings
        self._names = count()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        found = binaries()
        if found is None:
            pytest.skip("there is no PostgreSQL here: install the Debian package postgresql")
        pytest.importorskip("psycopg", reason="there is no psycopg: pip install '.[postgres]'")
        self._binaries = found
        # Not below pytest's folder: that is closed to the server's user.
        self.folder = Path(tempfile.mkdtemp(prefix="encore-postgres-"))
        self.port = free_port()
        secret = self.folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        for path in (self.folder, secret):
            os.chown(path, *_account()) if os.getuid() == 0 else None
        made = [found / "initdb", "-D", self.folder / "data", "-U", USER, "--pwfile", secret]
        made += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(made, **_as_user(), cwd="/", capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        secret.unlink()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        settings = [f"-c{setting}" for setting in self._settings]
        command = [self._binaries / "postgres", "-D", self.folder / "data", "-p", str(self.port)]
        command += ["-k", self.folder, "-clisten_addresses=127.0.0.1", *settings]
        if setpriv := shutil.which("setpriv"):  # it shall not outlive a killed test
            command[:0] = [setpriv, "--pdeathsig", "QUIT"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, **_as_user(), cwd="/", stderr=log)
        until(self.answers)

    def stop(self, *, at_once: bool = True) -> None:
        """Stop it, `at_once` as `pg_ctl stop -m immediate` does: as in a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def answers(self) -> bool:
        """Return whether one can connect."""
        import psycopg

        with suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Return a database's URL; `port` is that of a proxy in between."""
        return f"postgresql+psycopg://{USER}:{QUOTED}@127.0.0.1:{port or self.port}/{database}"

    def create(self, template: str = "template1") -> str:
        """Create a database as a copy of another one; return its name."""
        name = f"test{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    @contextmanager
    def copy(self, template: str) -> Iterator[str]:
        """Return the URL of a copy of a database, for a while."""
        name = self.create(template)
        yield self.url(name)
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def emptied(self, name: str) -> Iterator[str]:
        """Return the URL of a database whose rows, but for versions, go afterwards.

        That is quicker than a copy.
        """
        yield self.url(name)
        self.execute(EMPTY, name)

    def execute(self, statement: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run plain SQL, past all of ours; return the rows, if there are any."""
        import psycopg

        place = {"host": "127.0.0.1", "port": self.port, "dbname": database}
        with psycopg.connect(
            **place,
            user=USER,
            password=PASSWORD,
            autocommit=True,  # type: ignore[arg-type]
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        """Return what the server has logged."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")


class Line:
    """Stands between a program and a server, and cuts the line when it is told to.

    Before each transaction's COMMIT is passed on, `cut` is asked: "before" loses the question,
    "after" the answer of a transaction that has been carried out, None loses nothing.
    """

    def __init__(self, port: int, cut: Callable[[], str | None]) -> None:
        self._to, self._cut = port, cut
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more calls."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[caller], daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with closing(caller), closing(socket.create_connection(("127.0.0.1", self._to))) as server:
            answers = threading.Thread(target=_pass_on, args=[server, caller], daemon=True)
            answers.start()
            with suppress(OSError):
                while message := caller.recv(65536):
                    verdict = None
                    if b"COMMIT\0" in message:
                        with self._lock:
                            verdict = self._cut()
                    if verdict == "before":
                        break
                    if verdict == "after":
                        caller.shutdown(socket.SHUT_RDWR)
                        server.sendall(message)
                        server.shutdown(socket.SHUT_WR)
                        answers.join(10)  # the server hangs up once it has done it
                        break
                    server.sendall(message)
            for side in (caller, server):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


def _pass_on(server: socket.socket, caller: socket.socket) -> None:
    with suppress(OSError):
        while answer := server.recv(65536):
            with suppress(OSError):  # a client that hung up must not stop the server
                caller.sendall(answer)
    with suppress(OSError):
        caller.shutdown(socket.SHUT_RDWR)


@contextmanager
def line(server: Server, cut: Callable[[], str | None]) -> Iterator[Line]:
    """Stand between a program and the server."""
    with closing(Line(server.port, cut)) as between:
        yield between


def free_port() -> int:
    """Return a port without a listener."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_user() -> dict[str, Any]:
    """Return what has a process run as another user than root, which PostgreSQL refuses."""
    if os.getuid() != 0:
        return {}
    user, group = _account()
    return {"user": user, "group": group, "extra_groups": []}


def _account() -> tuple[int, int]:
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid
