"""A server on this machine that speaks the hub's protocol for datasets: lists, and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.helpers.web import answering

LARGE = 1000


@dataclass
class Hub:
    """What the server answers, and what it was asked: ``GET /path``, without the query."""

    url: str = ""
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def asked_of(self, repo: str) -> list[str]:
        """Return what was asked about a dataset."""
        return [line for line in self.asked if f"datasets/{repo}" in line]

    def put_dataset(
        self,
        repo: str,
        files: dict[str, bytes],
        *,
        card: dict[str, Any] | None = None,
        revision: str | None = None,
    ) -> str:
        """Publish a dataset and return its commit. Files over a kilobyte are large, as in git."""
        commit = hashlib.sha1(repr((repo, sorted(files.items()), revision)).encode()).hexdigest()
        siblings = []
        for name, body in files.items():
            sha256 = hashlib.sha256(body).hexdigest()
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": blob}
            if len(body) > LARGE:
                entry["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 134}
            siblings.append(entry)
            etag = sha256 if len(body) > LARGE else blob
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
            self.answers[f"/datasets/{repo}/resolve/{commit}/{name}"] = (200, headers, body)
        listing = {"id": repo, "sha": commit, "siblings": siblings, "cardData": card or {}}
        for tail in [f"/revision/{revision}"] if revision else ["", f"/revision/{commit}"]:
            body = json.dumps(listing).encode()
            self.answers[f"/api/datasets/{repo}{tail}"] = (200, {}, body)
        return commit

    def refuse(self, repo: str, status: int, code: str = "") -> None:
        """Answer every question for a dataset with an error, as the hub words it."""
        headers = {"X-Error-Code": code} if code else {}
        self.answers[f"/api/datasets/{repo}"] = (status, headers, b"{}")


@contextmanager
def serving() -> Iterator[Hub]:
    """Run the server while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            is_known = path.partition("/revision/")[0] in hub.answers
            code = "RevisionNotFound" if is_known else "RepoNotFound"
            missing = (404, {"X-Error-Code": code}, b"{}")
            status, headers, body = hub.answers.get(path, missing)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with answering(Handler) as hub.url:
        yield hub
