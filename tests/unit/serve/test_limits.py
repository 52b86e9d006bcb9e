"""Too many connections, bodies that nobody reads: what clients may take of the server."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.helpers.served import Served, fake_server, post, read_all

KEY = "sixteen-letters-and-more"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_calm(server: Served) -> bool:
    before = cpu_seconds(server.process.pid)
    time.sleep(1)
    return cpu_seconds(server.process.pid) - before < 0.3


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_more_connections_than_files_wait_and_cost_nothing(folder: Path) -> None:
    """The system allows 64 files; 200 clients connect and stay silent."""
    with fake_server(folder, files=64) as server, ExitStack() as stack:
        assert server.process.stderr is not None
        links = [stack.enter_context(server.connect()) for _ in range(200)]
        while "connections are in use" not in (said := server.process.stderr.readline()):
            assert said, "the server has ended"
        assert is_calm(server)
        for link in links:
            link.close()
        assert server.get("/health").status_code == 200
        assert server.end() == (0, "")


def test_silent_connections_make_room_for_the_next(folder: Path) -> None:
    with fake_server(folder, "--patience", "0.5", files=64) as server, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(server.connect())
        assert server.get("/health").status_code == 200  # it waited for its turn


def test_the_key_is_read_before_the_body(folder: Path) -> None:
    """A head that announces a body and has a wrong key is refused; the body never comes."""
    with fake_server(folder, env={"LLMC_API_KEY": KEY}) as server:
        for kind in ("Content-Length: 900000", "Transfer-Encoding: chunked"):
            with server.connect() as link:
                head = ["POST /v1/completions HTTP/1.1", "Host: localhost", kind]
                head += ["Content-Type: application/json", "Authorization: Bearer wrong"]
                link.sendall("\r\n".join([*head, "Expect: 100-continue", "", ""]).encode())
                assert link.recv(12) == b"HTTP/1.1 401"  # no 100 before it


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n", b"200"),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n", b"405"),
        (post(b"").replace(b"Content-Length: 0", b"Content-Length: 9999999"), b"413"),
    ],
)
def test_the_rest_of_a_body_that_is_answered_is_not_waited_for(
    folder: Path, head: bytes, status: bytes
) -> None:
    """A byte now and then must not keep the connection open."""
    with fake_server(folder, "--patience", "0.5") as server, server.connect() as link:
        link.sendall(head)
        assert link.recv(12) == b"HTTP/1.1 " + status
        with pytest.raises(OSError):  # it is reset
            while True:
                link.sendall(b"x")
                time.sleep(0.05)


def test_a_body_that_trickles_has_one_deadline(folder: Path) -> None:
    with fake_server(folder, "--patience", "0.5") as server, server.connect() as link:
        link.sendall(post(b"{").replace(b"Length: 1", b"Length: 999"))
        began = time.monotonic()
        link.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - began < 20:
            link.sendall(b" ")
            with suppress(TimeoutError):
                answer = link.recv(12)
        assert answer == b"HTTP/1.1 408"
        link.settimeout(60)
        read_all(link)
