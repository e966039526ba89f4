"""Use case `dashboard`: Optuna's own, on the study's database, for this machine alone."""

import socket
from collections.abc import Callable

from storage.database import open_database
from storage.store import Store
from study.config import ConfigError, StudyConfig

HOST = "127.0.0.1"


def dashboard(
    *,
    storage: str = StudyConfig().storage,
    port: int = 8080,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve optuna-dashboard on 127.0.0.1 until interrupted; `ready` is told the address.

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
    import optuna_dashboard  # seconds, which a mistake need not wait for

    from study.optuna_storage import optuna_storage

    served = optuna_storage(storage)
    ready(f"http://{HOST}:{port}/")
    optuna_dashboard.run_server(served, host=HOST, port=port)
