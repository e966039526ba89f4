"""Servers on loopback that photos are fetched from: a Google Cloud Storage, and a plain web one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit


class Answering(BaseHTTPRequestHandler):
    """Answers from `objects`, by path; `asked` are the paths that were asked for."""

    objects: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[str]]
    status: ClassVar[int] = 200
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        """Answer without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer with an object."""
        self.asked.append(f"{self.command} {self.path}")
        content = self.objects.get(unquote(urlsplit(self.path).path))
        if self.status != 200:
            self.answer(b"no", self.status)
        else:
            self.answer(content or b"", 404 if content is None else 200)

    def answer(self, content: bytes, status: int = 200) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(content)}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Google(Answering):
    """As much of Google's JSON API as reading takes; objects are by /bucket/name."""

    def do_GET(self) -> None:
        """List a folder of a bucket, or give an object or what it is."""
        self.asked.append(f"{self.command} {self.path}")
        url, options = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
        _, _, below = url.path.partition("/b/")
        bucket, _, rest = below.partition("/")
        name = unquote(rest.removeprefix("o/"))
        if self.status != 200:
            error = {"error": {"code": self.status, "message": "hunter2 is no key"}}
            self.answer(json.dumps(error).encode(), self.status)
        elif rest == "o":
            prefix, delimiter = (options.get(name, [""])[0] for name in ("prefix", "delimiter"))
            self.answer(json.dumps(self._listing(bucket, prefix, delimiter)).encode())
        elif (content := self.objects.get(f"/{bucket}/{name}")) is None:
            self.answer(b"{}", 404)
        elif options.get("alt") == ["media"]:
            self.answer(content)
        else:
            self.answer(json.dumps(_resource(bucket, name, content)).encode())

    def _listing(self, bucket: str, prefix: str, delimiter: str) -> dict[str, Any]:
        start, items, folders = f"/{bucket}/", [], set[str]()
        for path, content in self.objects.items():
            name = path.removeprefix(start)
            if path.startswith(start + prefix):
                folder, slash, _ = name[len(prefix) :].partition("/")
                if slash and delimiter:
                    folders.add(f"{prefix}{folder}/")
                else:
                    items.append(_resource(bucket, name, content))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}


def _resource(bucket: str, name: str, content: bytes) -> dict[str, Any]:
    size, version = str(len(content)), str(abs(hash(content)))
    return {"name": name, "bucket": bucket, "size": size, "etag": version, "generation": "1"}


@contextmanager
def served(kind: type[Answering]) -> Iterator[tuple[str, type[Answering]]]:
    """Serve in a thread of this process; return host and port, and the handler that answers."""
    handler = type("Handler", (kind,), {"objects": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
