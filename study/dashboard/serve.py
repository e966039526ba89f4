"""Use case `dashboard`: Optuna's own, with notes and pictures, for this machine alone."""

import logging
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from functools import partial
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from storage.database import open_database
from storage.paths import runs_folder
from storage.store import Store
from study.config.schema import StudyConfig
from study.errors import ConfigError

HOST = "127.0.0.1"
ARTIFACTS = ".artifacts"
"""The folder of uploads, among the runs; no study can have its name."""


def dashboard(
    *,
    storage: str = StudyConfig().storage,
    port: int = 8080,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve optuna-dashboard on 127.0.0.1 until interrupted; `ready` is called with the address.

    Raises `StudyNotFound` where there is no database, `ConfigError` if the port is taken.
    """
    Store(open_database(storage, create=False)).close()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}); give another with --port"
            ) from None
    _quiet()
    import optuna_dashboard  # takes seconds; errors above need not wait for it

    from study.dashboard.artifacts import Exhibits
    from study.dashboard.guard import Guard
    from study.dashboard.optuna_overlay import DecoratedArtifacts, DecoratedStorage
    from study.searching.optuna_storage import optuna_storage

    with closing(Exhibits(storage)) as exhibits:
        served = optuna_storage(storage, partial(DecoratedStorage, exhibits))
        artifacts = DecoratedArtifacts(runs_folder(storage) / ARTIFACTS, exhibits)
        application = Guard(
            optuna_dashboard.wsgi(served, artifacts), (f"{HOST}:{port}", f"localhost:{port}")
        )
        with make_server(HOST, port, application, _Server, _Quiet) as server:
            ready(f"http://{HOST}:{port}/")
            server.serve_forever()


def _quiet() -> None:
    """Keep libraries' warnings out of the terminal, where the user cannot act on them."""
    warnings.simplefilter("ignore")
    logging.getLogger("optuna").setLevel(logging.ERROR)
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread: a heat map takes seconds, and others need not wait."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a closed connection; report all other errors as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Quiet(WSGIRequestHandler):
    """Logs no line per request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""
