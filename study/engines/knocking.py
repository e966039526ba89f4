"""Is a Ray cluster there? Asked without Ray in this process."""

import socket
import subprocess
import sys

PATIENCE = 10.0
"""Seconds that a cluster gets to answer, and an idle worker to end."""


def knock(address: str) -> None:
    """See whether a cluster is there: Ray itself would try for minutes."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        except (OSError, ValueError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConnectionError(
                f"nobody answers at {address} ({why.lower()}); "
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
