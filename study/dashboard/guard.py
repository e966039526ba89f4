"""Which requests the dashboard accepts: from its own pages only, and none that harms a search."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_READING = ("GET", "HEAD")
_WRITABLE = re.compile(r"/api/(studies/\d+(/\d+)?/note|artifacts/.+)")
_UPLOADS = "/artifacts/"
_INERT = [
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'",
    ),
]
"""An uploaded page or drawing is shown, but cannot run scripts with the dashboard's origin."""


class Guard:
    """Accepts requests from this server's own pages that change nothing but notes and uploads.

    Another site's page that names 127.0.0.1 by a name of its own (DNS rebinding), or has the
    browser send something here, is refused. So are requests that would end or delete trials of a
    search, even from the dashboard's own page.
    """

    def __init__(self, application: Application, hosts: Iterable[str]) -> None:
        self._application = application
        self._hosts = frozenset(hosts)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a WSGI request."""
        origin = environ.get("HTTP_ORIGIN")
        ours = origin is None or origin in {f"http://{host}" for host in self._hosts}
        if environ.get("HTTP_HOST") not in self._hosts or not ours:
            return _refuse(start_response, "this dashboard is for its own machine alone")
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] not in _READING and not _WRITABLE.fullmatch(path):
            return _refuse(
                start_response,
                "Encore keeps its studies itself; only notes and uploads change here",
            )
        if path.startswith(_UPLOADS):
            return self._application(environ, _adding(_INERT, start_response))
        return self._application(environ, start_response)


def _adding(more: list[tuple[str, str]], start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        return start_response(status, [*headers, *more], *rest)

    return start


def _refuse(start_response: StartResponse, reason: str) -> list[bytes]:
    start_response("403 Forbidden", [("Content-Type", "application/json")])
    return [json.dumps({"reason": reason}).encode()]
