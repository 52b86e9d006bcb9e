"""Slow clients, disconnects, signals, an engine that dies: how requests and the server end."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest

from tests.helpers.served import Served, child_of, fake_server, is_alive, post, read_all
from tests.helpers.serving import error


@contextmanager
def writing(folder: Path, *flags: str) -> Iterator[tuple[Served, list[Future[httpx2.Response]]]]:
    """Run a server that writes two long texts; yield it and the answers: a stream, a whole one."""
    with (
        fake_server(folder, "--step-seconds", "0.01", *flags) as server,
        ThreadPoolExecutor() as pool,
    ):
        ask = {"prompt": "ab", "max_tokens": 100_000}
        answers = [pool.submit(server.complete, **ask, stream=stream) for stream in (True, False)]
        server.becomes("llmc_completions_running", 2)
        yield server, answers


def test_a_full_queue_is_told_and_empties(folder: Path) -> None:
    """One writes and one waits; the third is refused and told when to come again."""
    with (
        fake_server(folder, "--slots", "1", "--queue", "1", "--step-seconds", "0.01") as server,
        ThreadPoolExecutor() as pool,
    ):
        first = [
            pool.submit(server.complete, prompt="a", max_tokens=200, stream=True) for _ in range(2)
        ]
        server.becomes("llmc_completions_running", 1)
        server.becomes("llmc_completions_waiting", 1)
        refused = server.complete(prompt="b")
        assert error(refused, 429)["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert error(server.complete(prompt="b", n=3), 400)["param"] == "n"  # would never fit
        with (
            openai.OpenAI(base_url=f"{server.url}v1", api_key="x", max_retries=0) as client,
            pytest.raises(openai.RateLimitError),
        ):
            client.completions.create(model="parrot", prompt="b")
        assert [done.result().status_code for done in first] == [200, 200]
        assert server.complete(prompt="b", max_tokens=1).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(folder: Path, stream: bool) -> None:
    with fake_server(folder, "--slots", "1", "--queue", "0", "--step-seconds", "0.001") as server:
        body = json.dumps({"prompt": "ab", "max_tokens": 100_000, "stream": stream}).encode()
        with server.connect() as link:
            link.sendall(post(body))
            server.becomes("llmc_completions_running", 1)
            assert not stream or link.recv(10)
            assert server.complete(prompt="b").status_code == 429
        server.becomes("llmc_completions_running", 0)
        assert server.complete(prompt="b", max_tokens=1).json()["choices"][0]["text"] == "b"


def test_slow_clients_are_left(folder: Path) -> None:
    """A head or a body that never comes to its end, an answer that nobody reads."""
    with fake_server(folder, "--slots", "1", "--queue", "0", "--patience", "0.5") as server:
        with server.connect() as silent, server.connect() as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: local")
            assert read_all(slow).startswith(b"HTTP/1.1 408")
            assert read_all(silent) == b""
        with server.connect() as slow:
            slow.sendall(post(b"{", "X: y").replace(b"Length: 1", b"Length: 20"))
            assert read_all(slow).startswith(b"HTTP/1.1 408")
        with server.connect() as again:  # a second request on the same connection
            again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert again.recv(9999).startswith(b"HTTP/1.1 200")
            again.sendall(b"GET /he")
            assert b"HTTP/1.1 408" in read_all(again)
        body = {"prompt": "abcdefgh", "max_tokens": 100_000, "stream": True, "logprobs": 9}
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(post(json.dumps(body).encode()))
            server.becomes("llmc_completions_running", 1)
            server.becomes("llmc_completions_running", 0)
            assert server.metric("llmc_completion_tokens_total") < 100_000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_it_finish_what_is_being_written(
    folder: Path, number: signal.Signals, code: int
) -> None:
    with (
        fake_server(folder, "--step-seconds", "0.01") as server,
        ThreadPoolExecutor() as pool,
        httpx2.Client(base_url=server.url) as kept,
    ):
        assert kept.get("/health").status_code == 200
        writing = pool.submit(server.complete, prompt="ab", max_tokens=100, stream=True)
        server.becomes("llmc_completions_running", 1)
        ended, said = server.end(number)
        assert ended == code
        assert "finishing open completions (1)" in said
        assert "Traceback" not in said
        assert writing.result().text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx2.HTTPError):
            kept.get("/health")


def test_a_request_whose_body_comes_after_the_signal_is_refused(folder: Path) -> None:
    with fake_server(folder) as server, server.connect() as late:
        body = json.dumps({"prompt": "ab"}).encode()
        head, _, _ = post(body, "Expect: 100-continue").rpartition(body)
        late.sendall(head)
        assert late.recv(999).startswith(b"HTTP/1.1 100")  # the body is waited for
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):  # refused, or reset while the listener closes
            while True:
                server.connect().close()
        late.sendall(body)
        answer = read_all(late)
        assert answer.startswith(b"HTTP/1.1 503") and b'"shutting_down"' in answer
        assert server.end() == (0, "")


def test_a_second_ctrl_c_ends_it_at_once(folder: Path) -> None:
    with writing(folder) as (server, answers):
        engine = child_of(server.process.pid)
        server.process.send_signal(signal.SIGINT)
        assert server.process.stderr is not None
        assert "finishing" in server.process.stderr.readline()
        code, said = server.end(signal.SIGINT)
        assert code == 130
        assert "Traceback" not in said
        for answer in answers:
            assert answer.exception() is not None or "shutting down" in answer.result().text
        assert not is_alive(engine)


def test_what_takes_too_long_is_ended_with_an_error(folder: Path) -> None:
    with writing(folder, "--patience", "0.3") as (server, answers):
        assert server.end()[0] == 0
        stream, whole = (answer.result() for answer in answers)
        last = stream.text.split("\n\n")[-2]
        assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert "shutting down" in error(whole, 503)["message"]


def test_an_engine_that_dies_is_started_again_once(folder: Path) -> None:
    """Who waits gets 503 or an error in the stream that says so; who comes later is answered."""
    with writing(folder) as (server, answers):
        os.kill(child_of(server.process.pid), signal.SIGKILL)
        stream, whole = (answer.result() for answer in answers)
        last = json.loads(stream.text.split("\n\n")[-2].removeprefix("data: "))
        for told in (last["error"]["message"], error(whole, 503)["message"]):
            assert "SIGKILL" in told and "started again" in told
        server.becomes("llmc_engine_up", 1)
        assert server.metric("llmc_engine_restarts") == 1
        assert server.metric("llmc_completions_running") == 0
        assert server.get("/health").json() == {"status": "ok"}
        assert server.complete(prompt="b", max_tokens=3).json()["choices"][0]["text"] == "bbb"
        code, said = server.end()
        assert code == 0
        assert "SIGKILL" in said and "answers again" in said and "Traceback" not in said


def test_an_engine_that_dies_again_stays_dead(folder: Path) -> None:
    """Later requests get 503 and health says why, until the server ends with the engine's code."""
    with fake_server(folder) as server:
        for times in (1, 2):
            os.kill(child_of(server.process.pid), signal.SIGKILL)
            while (health := server.get("/health")).status_code == 200:
                pass
            assert health.json()["status"] == ("restarting" if times == 1 else "dead")
            assert "SIGKILL" in health.json()["error"]["message"]
            refused = server.complete(prompt="b")
            if times == 1:
                assert refused.status_code == 200 or (
                    error(refused, 503)["code"] == "engine_restarting"
                    and int(refused.headers["retry-after"]) > 0
                )
                server.becomes("llmc_engine_up", 1)
            else:
                assert error(refused, 503)["code"] == "engine_dead"
        assert server.metric("llmc_engine_up") == 0
        code, said = server.end()
        assert code == 137  # as the shell says of a killed program
        assert "SIGKILL" in said and "started again" in said and "Traceback" not in said


def test_an_engine_that_cannot_be_started_again_is_told_of(folder: Path) -> None:
    """With --fault die every request ends the engine."""
    with fake_server(folder, "--fault", "die") as server:
        assert "started again" in error(server.complete(prompt="b"), 503)["message"]
        server.becomes("llmc_engine_up", 1)
        assert "no finite logits" in error(server.complete(prompt="b"), 503)["message"]
        assert error(server.complete(prompt="b"), 503)["code"] == "engine_dead"
        assert server.end()[0] == 5
