"""Connect to a Ray cluster at an address, or start one here."""

import logging
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from trainers.allowance import usable_cpus

PATIENCE = 10.0
"""Seconds for a cluster to answer, and for an idle worker to exit."""

_TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - a variable's name
_MODE = "RAY_AUTH_MODE"


_WATCH = """
import os, signal, sys
watched = []
for pid in sys.argv[1:]:
    try:
        watched.append(os.pidfd_open(int(pid)))
    except OSError:
        pass
sys.stdin.read()
for process in watched:
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        pass
"""


def check_reachable(address: str) -> None:
    """Check that a cluster answers: Ray itself would try for minutes."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        except (OSError, ValueError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConnectionError(
                f"no answer at {address} ({why.lower()}); "
                "start a Ray cluster there, or check --address"
            ) from None
    asked = [] if address == "auto" else ["--address", address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *asked]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)  # noqa: S603 - Ray's own
    except subprocess.SubprocessError:
        where = "on this machine" if address == "auto" else f"at {address}"
        raise ConnectionError(
            f"there is no Ray cluster {where}; start one with `ray start --head`, "
            "or check --address"
        ) from None


def join(address: str | None) -> ExitStack:
    """Join the cluster at `address`; None means that of RAY_ADDRESS, else one is started here.

    The result leaves the cluster on close, if this call has joined it. Raises ConnectionError in a
    sentence.
    """
    leaving = ExitStack()
    if ray.is_initialized():
        return leaving
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if place == "local":
        options = {"include_dashboard": False, "num_cpus": usable_cpus()}
        # Ray listens on all interfaces. It demands a token by default, but would keep one for all
        # clusters in a file that other users may read.
        leaving.callback(_forget_token, {name: os.environ.get(name) for name in (_TOKEN, _MODE)})
        os.environ.setdefault(_TOKEN, secrets.token_hex(32))
    else:
        check_reachable(place)
    others = frozenset(_descendants(os.getpid()))  # not Ray's
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(place, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        leaving.close()
        text = " ".join(str(error).split())
        if "version mismatch" in text.lower():
            raise ConnectionError(
                f"the Ray cluster at {place} runs other versions than this machine (here: Ray "
                f"{ray.__version__}, Python {platform.python_version()}); install the same on both"
            ) from error
        raise ConnectionError(f"Ray cannot be used at {place}: {text[:300]}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # a variable that Ray itself has set
    if place == "local" and sys.platform == "linux":
        leaving.enter_context(_ends_with_us(others))
    leaving.callback(ray.shutdown)
    return leaving


def _forget_token(before: dict[str, str | None]) -> None:
    """Restore the variables: otherwise Ray would keep its mode and reuse our token elsewhere."""
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    found: Any = ray  # untyped
    with suppress(AttributeError):  # private, as of Ray 2.60
        found._raylet.Config.initialize("")
        found._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _ends_with_us(others: frozenset[int]) -> Iterator[None]:
    """Make the processes of our cluster end when this one does, in whatever way.

    After kill -9, Ray's head and its workers end by themselves, and their agents much later. So a
    helper process waits for the end of its input, which comes when this process is gone.
    """
    pids = [str(pid) for pid in _descendants(os.getpid()) if pid not in others]
    command = [sys.executable, "-I", "-S", "-c", _WATCH, *pids]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):  # noqa: S603
        yield


def _descendants(pid: int) -> Iterator[int]:
    """List the processes that a process has started, and those that these have."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from _descendants(child)


def living_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of each live node."""
    found: Any = ray.nodes  # untyped
    return {each["NodeID"]: each["Resources"] for each in found() if each["Alive"]}
