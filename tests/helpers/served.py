"""Servers as processes of their own, for tests that ask them things."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from llmc.model import ModelConfig
from tests.helpers.models import save_model

FAKE = Path(__file__).with_name("fake_server.py")
# What the stand-in for the engine says it has: bytes and end-of-text.
BYTES = ModelConfig(layers=1, heads=2, channels=16, context=64, vocab_size=257)


@dataclass
class Served:
    """A server that answers."""

    url: str
    process: subprocess.Popen[str]
    client: httpx2.Client

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rsplit(":", 1)[1])

    def get(self, path: str, **kwargs: Any) -> httpx2.Response:
        return self.client.get(path, **kwargs)

    def complete(self, **body: Any) -> httpx2.Response:
        return self.client.post("/v1/completions", json=body)

    def metric(self, name: str, **labels: str) -> float:
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    def becomes(self, name: str, value: float, **labels: str) -> bool:
        """Ask until a metric has a value; the test's own timeout is the limit."""
        while self.metric(name, **labels) != value:
            assert self.process.poll() is None
        return True

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are; return all that comes until the server closes."""
        with self.connect() as link:
            link.sendall(data)
            return read_all(link)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, wait, and return the exit code and what was said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


def read_all(link: socket.socket) -> bytes:
    found = b""
    while piece := link.recv(1 << 16):
        found += piece
    return found


def post(body: bytes, *headers: str) -> bytes:
    """Return a request for completions as it goes over the wire."""
    head = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def child_of(pid: int) -> int:
    """Return the one child of a process."""
    told = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    (child,) = told.stdout.split()
    return int(child)


def command_of(pid: int) -> str:
    """Return the command line of a process."""
    told = subprocess.run(
        ["ps", "-o", "args=", "-ww", "-p", str(pid)], capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def is_alive(pid: int) -> bool:
    """Say whether a process works; one that ended and was not asked for yet does not."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return told.stdout.strip()[:1] not in (b"", b"Z")


@contextmanager
def served(
    argv: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Served]:
    """Run a server that prints its address once it answers; end it."""
    kept = {name: value for name, value in os.environ.items() if name != "LLMC_API_KEY"}
    with subprocess.Popen(
        [*map(str, argv)],
        env={**kept, **(env or {})},
        cwd=cwd,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], 120)
            url = process.stdout.readline().strip() if ready else ""
            if not url:
                process.kill()
                raise AssertionError(process.communicate()[1])
            with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
                yield Served(url, process, client)
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def fake_server(
    folder: Path,
    *flags: str | Path,
    env: Mapping[str, str] | None = None,
    files: int | None = None,
) -> Iterator[Served]:
    """Serve the stand-in for the engine; the process may have so many ``files`` open."""
    model = folder / "parrot.bin"
    if not model.exists():
        save_model(model, BYTES)
    limited = [] if files is None else ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    with served([*limited, sys.executable, FAKE, model, *flags], env) as server:
        yield server
