"""An S3 server on loopback for the tests, whose answers can be spoiled by a seeded generator."""

import random
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

import pytest

KEY, SECRET = "encore", "hun/ter2@s3"


class Spoiled:
    """A WSGI application some of whose answers are lost, by chance.

    Of each share of spoiled requests, some are refused (500 and 503), some are broken off before
    they are carried out, some after, and some in the middle of the answer.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.share, self.rng = 0.0, random.Random(0)  # noqa: S311 - no secret
        self.asked = self.spoiled = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer, or not."""
        with self._lock:
            self.asked += 1
            how = self.rng.choice(HOWS) if self.rng.random() < self.share else None
            self.spoiled += how is not None
        if how in ("500", "503"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return _refuse(how, start)
        if how == "before":
            return _break_off(environ)
        answer = b"".join(self._application(environ, start))
        if how == "after":
            return _break_off(environ)
        return _half(environ, answer) if how == "half" else [answer]


HOWS = ("500", "503", "before", "after", "half")


def _refuse(status: str, start: Callable[..., Any]) -> Iterable[bytes]:
    code = {"500": "InternalError", "503": "SlowDown"}[status]
    start(f"{status} Spoiled", [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>spoiled</Message></Error>".encode()]


def _break_off(environ: dict[str, Any]) -> NoReturn:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError


def _half(environ: dict[str, Any], answer: bytes) -> Iterator[bytes]:
    yield answer[: len(answer) // 2]
    _break_off(environ)


class ObjectStore:
    """An S3 server in a thread of this process; `with` starts and ends it."""

    def __enter__(self) -> Self:
        pytest.importorskip("s3fs", reason="there is no s3fs: pip install '.[s3]'")
        pytest.importorskip("moto.server", reason="there is no moto: pip install 'moto[server]'")
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: object) -> None:
                pass

        self.application = Spoiled(DomainDispatcherApplication(create_backend_app))
        self._server = make_server(
            "127.0.0.1", 0, self.application, threaded=True, request_handler=Quiet
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def variables(self) -> dict[str, str]:
        """What the environment of who uses it must hold."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"encore-{uuid.uuid4().hex[:12]}"
        _backend().create_bucket(name, "us-east-1")
        return name

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return what a bucket holds, past all of ours."""
        return {name: key.value for name, key in _backend().buckets[bucket].keys.items()}

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """Put an object into a bucket, past all of ours."""
        _backend().put_object(bucket, name, content)

    def remove(self, bucket: str, name: str) -> None:
        """Remove an object from a bucket, past all of ours."""
        _backend().delete_object(bucket, name)

    @contextmanager
    def failing(self, share: float, seed: int = 0) -> Iterator[Spoiled]:
        """Spoil a share of the requests."""
        rng = random.Random(seed)  # noqa: S311 - no secret is made of it
        self.application.share, self.application.rng = share, rng
        self.application.asked = self.application.spoiled = 0
        try:
            yield self.application
        finally:
            self.application.share = 0.0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have it refuse every access key."""
        from moto import settings

        before = settings.INITIAL_NO_AUTH_ACTION_COUNT
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        try:
            yield
        finally:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = before


def _backend() -> Any:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
