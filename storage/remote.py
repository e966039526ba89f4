"""Files under a URL, s3://bucket/prefix say: sent, fetched, listed, deleted. Uses fsspec.

Transient errors (a busy server, a broken connection) are retried; others are raised as
`RemoteUnusable`, in one sentence. Endpoint and credentials are the environment's: a URL that holds
a password is refused, as it would be stored.
"""

import errno
import logging
import random
import re
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

from storage.errors import RemoteUnusable
from storage.redaction import redact, redact_text

GIVE_UP_AFTER = 600.0
"""Seconds without success after which a search ends, as with the database."""

INSTALL = "pip install 'encore-search[{0}]' (from a checkout: pip install '.[{0}]')"

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 20.0
_PART = 16 << 20
"""Bytes of a part of a large file; only a failed part is sent again."""

_S3, _GCS, _WEB = ("s3", "s3a"), ("gs", "gcs"), ("http", "https")
_EXTRAS = {**dict.fromkeys(_S3, "s3"), **dict.fromkeys(_GCS, "gcs")}
_WHOLE = (*_S3, *_GCS, "az", "abfs", "abfss", "adl", "oss", "memory")
"""Protocols where a file appears only when complete; elsewhere it is renamed into place."""

_LASTING = (PermissionError, FileNotFoundError, ImportError, ValueError, TypeError)
_BARE = ("NoCredentialsError", "PartialCredentialsError")
"""By name, as botocore may not be installed."""

_AT_ONCE = 16
"""Parallel requests, which mostly wait for a response."""

UNKNOWN = -1
"""Size of a file for which a web server does not report it."""

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
}

_GONE = (404, 410)
"""A web server's status codes for a missing file."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A remote file: its size in bytes, and a text that changes with its content.

    The size is UNKNOWN if a web server does not report it.
    """

    size: int
    version: str


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and no path."""
    return _URL.match(text) is not None


def plain_url(url: str) -> str:
    """Return a URL without a slash at its end; ValueError for one that cannot be used or stored."""
    shown = redact(url)
    if not is_url(url) or not url.isprintable():
        raise ValueError(f"this must be a URL like s3://bucket/prefix, got {shown!r}")
    if shown != url or "?" in url:
        raise ValueError(
            f"{shown} holds a password or options, which would be stored with the study; leave "
            "them out and set the environment's variables, as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    scheme = _scheme(url)
    try:
        place = urlsplit(url)
    except ValueError:  # brackets that hold no address
        raise ValueError(f"{shown} is no URL; write it like s3://bucket/prefix") from None
    if (scheme in _S3 and not place.netloc) or ".." in place.path.split("/"):
        raise ValueError(f"{shown} names no place; write it like s3://bucket/prefix")
    from fsspec import available_protocols

    if scheme not in available_protocols():
        raise ValueError(
            f"{shown}: {scheme}:// is not a known protocol; write it like s3://bucket/prefix"
        )
    return url.rstrip("/")


class Remote:
    """The files below a URL. `say` is called when waiting begins and ends."""

    def __init__(
        self,
        url: str,
        *,
        give_up_after: float = GIVE_UP_AFTER,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url
        self._give_up_after = give_up_after
        self._say = say

    def check(self) -> None:
        """Write, read and delete a small file, to find problems before any work."""
        name = f".probe-{uuid.uuid4().hex}"
        with TemporaryDirectory() as folder:
            probe = Path(folder, "probe")
            probe.write_bytes(b"Encore was here")
            self.send(probe, name)
            if not self.fetch(name, probe):
                raise RemoteUnusable(f"{self.url} does not keep what is written there")
            self.delete(name)

    def send(self, source: Path, name: str) -> None:
        """Upload a file under a name, atomically; an existing one is replaced."""
        try:
            self._patiently(lambda: self._send(source, name))
        except FileNotFoundError as error:
            raise self._unusable(error) from None

    def fetch(self, name: str, target: Path) -> bool:
        """Download a file to `target`; return whether it exists."""
        try:
            self._patiently(lambda: self._files.get_file(self._at(name), str(target)))
        except FileNotFoundError:
            # An unreachable bucket must not be mistaken for a missing file.
            return self._is_listed(name)
        return True

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        try:
            self._patiently(lambda: self._info(name))
        except FileNotFoundError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self._patiently(lambda: self._files.rm_file(self._at(name)))
        except FileNotFoundError:
            self._is_listed(name)

    def entries(self) -> dict[str, Entry]:
        """List all files at any depth, each by its name below the URL."""
        try:
            found = self._patiently(self._list)
        except FileNotFoundError as error:
            raise self._unusable(error) from None
        start = len(self._root.rstrip("/")) + 1
        return {
            path[start:]: Entry(int(info["size"] or 0), _version(info))
            for path, info in found.items()
            if info["type"] == "file" and path[start:]
        }

    def look_up(
        self, names: Collection[str], progress: Callable[[int, int], None] = lambda *_: None
    ) -> dict[str, Entry]:
        """Return which of some files exist; `progress` gets (requests done, in all).

        Each folder is listed once, if possible; else each file is checked.
        """
        web = _scheme(self.url) in _WEB
        asked = names if web else {name.rpartition("/")[0] for name in names}
        found: dict[str, Entry] = {}
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            try:
                answers = threads.map(self._asked if web else self._listed, asked)
                for done, answer in enumerate(answers, 1):
                    found |= answer
                    progress(done, len(asked))
            finally:
                threads.shutdown(cancel_futures=True)
        return {name: found[name] for name in names if name in found}

    def _asked(self, name: str) -> dict[str, Entry]:
        try:
            info = self._patiently(lambda: self._web_info(name))
        except FileNotFoundError:
            return {}
        size = UNKNOWN if info["size"] is None else int(info["size"])
        return {name: Entry(size, _version(info))}

    def _web_info(self, name: str) -> dict[str, Any]:
        try:
            info: dict[str, Any] = self._files.info(self._at(name))
        except FileNotFoundError as error:
            # fsspec raises this for any error, such as a busy server.
            cause = error.__cause__
            if not isinstance(cause, Exception) or _status(cause) in _GONE:
                raise
            raise cause from None
        return info

    def _listed(self, folder: str) -> dict[str, Entry]:
        try:
            found = self._patiently(
                lambda: self._files.ls(self._at(folder).rstrip("/"), detail=True)
            )
        except FileNotFoundError:
            return {}
        start = len(self._root.rstrip("/")) + 1
        files = (info for info in found if info["type"] == "file")
        return {i["name"][start:]: Entry(int(i["size"] or 0), _version(i)) for i in files}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec  # only where there is a URL

        # Not a cached instance: fsspec does not notice that environment variables have changed.
        options: dict[str, Any] = {"skip_instance_cache": True}
        if _scheme(self.url) in _S3:
            # Few retries in botocore: the waiting is done in `_patiently`.
            retries = {"mode": "standard", "max_attempts": 2}
            options["config_kwargs"] = {"retries": retries, "connect_timeout": 10}
        if _scheme(self.url) in _GCS:
            # It logs its exceptions with a traceback; here they are reported in one sentence.
            logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
        try:
            files, root = fsspec.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            raise self._unusable(error) from None
        return files, root

    @property
    def _files(self) -> Any:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _send(self, source: Path, name: str) -> None:
        if (scheme := _scheme(self.url)) in _WHOLE:
            parts = {"chunksize": _PART} if scheme in _S3 else {}
            self._files.put_file(str(source), self._at(name), **parts)
            return
        self._files.makedirs(self._root, exist_ok=True)
        temporary = self._at(f".sealing-{uuid.uuid4().hex}")
        self._files.put_file(str(source), temporary)
        self._files.mv(temporary, self._at(name))

    def _info(self, name: str) -> None:
        self._files.invalidate_cache()
        self._files.info(self._at(name))

    def _list(self) -> dict[str, Any]:
        self._files.invalidate_cache()
        found: dict[str, Any] = self._files.find(self._root, detail=True)
        return found

    def _is_listed(self, name: str) -> bool:
        if name in self.entries():
            raise RemoteUnusable(f"{self.url} lists {name!r}, but does not give it; try again")
        return False

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Call, and retry while that may help, with exponential backoff and jitter."""
        deadline, delay, told = time.monotonic() + self._give_up_after, _FIRST_DELAY, False
        while True:
            try:
                answer = ask()
            except RemoteUnusable:
                raise
            except Exception as error:  # each kind of store has errors of its own
                full = isinstance(error, OSError) and error.errno == errno.ENOSPC
                if full or isinstance(error, FileNotFoundError):
                    raise
                if not _may_pass(error) or time.monotonic() >= deadline:
                    raise self._unusable(error) from None
                if delay > 1 and not told:
                    self._say(f"{self.url} does not answer ({_said(error)}); waiting")
                    told = True
                delay = min(delay, max(0, deadline - time.monotonic()))
                time.sleep(random.uniform(0, delay))  # noqa: S311 - no secret, but a spread
                delay = min(2 * delay, _LONGEST_DELAY)
                continue
            if told:
                self._say(f"{self.url} answers again")
            return answer

    def _unusable(self, error: Exception) -> RemoteUnusable:
        url, reason, scheme = self.url, _said(error), _scheme(self.url)
        s3 = scheme in _S3
        if isinstance(error, ImportError):
            look = INSTALL.format(_EXTRAS[scheme]) if scheme in _EXTRAS else "install it"
            return RemoteUnusable(f"{url} needs a package that is not installed ({reason}); {look}")
        if type(error).__name__ in _BARE:
            return RemoteUnusable(
                f"there are no credentials for {url}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if _refuses(error):
            look = _KEYS.get(_EXTRAS.get(scheme, ""), "the credentials")
            return RemoteUnusable(
                f"{url} refuses access ({reason}); check {look}, and that they may read, write, "
                "list and delete there"
            )
        if isinstance(error, FileNotFoundError):
            return RemoteUnusable(f"there is no place {url}; make the bucket, or correct its name")
        look = "the network and AWS_ENDPOINT_URL" if s3 else "the network"
        return RemoteUnusable(f"{url} cannot be reached ({reason}); check {look}")


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _may_pass(error: Exception) -> bool:
    lasting = isinstance(error, _LASTING) or type(error).__name__ in _BARE
    return not (lasting or _refuses(error) or _status(error) in _GONE)


def _refuses(error: Exception) -> bool:
    # gcsfs raises its own for 401, and a bare OSError for 403.
    forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden")
    return isinstance(error, PermissionError) or forbidden or _status(error) in (401, 403)


def _status(error: Exception) -> int:
    """Return the HTTP status of an error of aiohttp (`status`) or gcsfs (`code`)."""
    told = str(getattr(error, "status", None) or getattr(error, "code", None))
    return int(told) if told.isdecimal() else 0


def _said(error: Exception) -> str:
    return redact_text(" ".join(str(error).split()))[:200].rstrip(".") or type(error).__name__


def _version(info: dict[str, Any]) -> str:
    for name in ("ETag", "etag", "md5Hash", "mtime", "created", "Last-Modified"):
        if info.get(name):
            return str(info[name]).strip('"')
    return ""
