"""A server on this machine that speaks HTTP and the hub's protocol, and misbehaves when told to.

It serves files with Range and If-Range, redirects, is a proxy for whoever takes it for one, and
remembers what it was asked and how many bytes it sent.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 1 << 14


@dataclass(frozen=True)
class Act:
    """What to do with a GET in place of serving the file as it should be.

    Attributes:
        status: answer this, with a page, where it is not a success.
        headers: sent too.
        cut: break the connection after so many bytes of the body.
        pause_s: wait so long after every 16 KiB.
        silent: break the connection without an answer.
        page: answer 200 with this body.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    pause_s: float = 0.0
    silent: bool = False
    page: bytes | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Web:
    """What the server answers, and what it was asked.

    It breaks off in the middle of the ``broken`` paths, and serves one byte less than HEAD said of
    the ``trimmed`` ones. Of the ``rangeless``, it ignores Range; of the ``careless``, If-Range. It
    compresses the ``zipped``, and sends the ``chunked`` in chunks, without their length. ``acts``
    are for the next GETs of a path, one each; ``always`` is for those after them.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    trimmed: set[str] = field(default_factory=set)
    rangeless: set[str] = field(default_factory=set)
    careless: set[str] = field(default_factory=set)
    zipped: set[str] = field(default_factory=set)
    chunked: set[str] = field(default_factory=set)
    lengths: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    acts: dict[str, list[Act]] = field(default_factory=dict)
    always: dict[str, Act] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    proxied: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    def put(self, path: str, body: bytes, **headers: str) -> None:
        """Serve ``body`` at ``path``."""
        self.files[path] = body
        self.headers[path] = {name.replace("_", "-"): value for name, value in headers.items()}

    def put_on_hub(self, repo: str, name: str, body: bytes, etag: str | None = None) -> None:
        """Serve a file as the hub does: by branch and by commit, with its hash as ETag."""
        etag = etag or hashlib.sha256(body).hexdigest()
        for revision in ("main", COMMIT):
            path = f"/{repo}/resolve/{revision}/{name}"
            self.put(path, body, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    def put_large_on_hub(self, repo: str, name: str, body: bytes, place: str) -> None:
        """Serve a file as the hub serves large ones: from another address, ``place``."""
        etag = hashlib.sha256(body).hexdigest()
        for revision in ("main", COMMIT):
            path = f"/{repo}/resolve/{revision}/{name}"
            announced = {"X_Linked_Etag": f'"{etag}"', "X_Linked_Size": str(len(body))}
            self.put(path, b"Found", X_Repo_Commit=COMMIT, **announced)
            self.redirects[path] = place

    def ranges(self, path: str) -> list[str | None]:
        """Return the Range headers of all GETs of a path."""
        gets = [asked for asked in self.requests if (asked.method, asked.path) == ("GET", path)]
        return [asked.headers.get("range") for asked in gets]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        self.close_connection = True
        web = self.web
        if self.path.startswith("http://"):
            web.proxied.append(self.path)
            self.path = urlsplit(self.path).path
        web.asked.append(f"{self.command} {self.path}")
        headers = {name.lower(): value for name, value in self.headers.items()}
        web.requests.append(Asked(self.command, self.path, headers))
        acts = web.acts.get(self.path, [])
        act = web.always.get(self.path, Act())
        if self.command == "GET" and acts:
            act = acts.pop(0)
        if act.silent:
            return
        if self.path in web.redirects and act.status == 200:
            act = Act(302, {"Location": web.redirects[self.path], **web.headers[self.path]})
        if self.path not in web.files and act.status == 200 and act.page is None:
            act = Act(404)
        if act.status != 200:
            self._answer(act.status, b"<html>A page that tells of it</html>", act.headers, act)
        elif act.page is not None:
            self._answer(200, act.page, act.headers, act)
        else:
            self._serve(act)

    do_HEAD = do_GET  # noqa: N815

    def _serve(self, act: Act) -> None:
        web = self.web
        body = web.files[self.path]
        headers = {**web.headers[self.path], **act.headers}
        if self.command == "GET" and self.path in web.trimmed:
            body = body[:-1]
        if self.path in web.broken:
            act = Act(cut=len(body) // 2)
        if self.path in web.zipped:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        status = 200
        etag, modified = headers.get("ETag"), headers.get("Last-Modified")
        if (etag and self.headers.get("If-None-Match") == etag) or (
            modified and self.headers.get("If-Modified-Since") == modified
        ):
            self._answer(304, b"", headers, act)
            return
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        same = condition is None or condition in (etag, modified) or self.path in web.careless
        if match and same and self.path not in web.rangeless:
            start, size = int(match[1]), len(body)
            if start >= size:
                self._answer(416, b"", {**headers, "Content-Range": f"bytes */{size}"}, act)
                return
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            body, status = body[start:], 206
        self._answer(status, body, headers, act)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], act: Act) -> None:
        web = self.web
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        is_chunked = self.path in web.chunked
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif status != 304:
            self.send_header("Content-Length", str(web.lengths.get(self.path, len(body))))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "GET" or status == 304:
            return
        end = len(body) if act.cut is None else min(act.cut, len(body))
        for start in range(0, end, PIECE):
            piece = body[start : min(start + PIECE, end)]
            try:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            except OSError:
                return  # the client has left
            web.sent[self.path] = web.sent.get(self.path, 0) + len(piece)
            time.sleep(act.pause_s)
        if is_chunked and end == len(body):
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Web]:
    """Run a server of its own."""
    web = Web()
    with answering(type("Handler", (_Handler,), {"web": web})) as web.url:
        yield web


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Let a handler answer at an address of this machine, which is yielded."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def part_size(cache: Path) -> int:
    """Return the bytes of all unfinished downloads in a cache; they may end meanwhile."""
    total = 0
    for path in (cache / "downloads").glob("*.part"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is true, for at most 30 seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
