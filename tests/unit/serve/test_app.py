"""llmc serve over a stand-in for the engine: what is answered, what is refused, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.served import FAKE, Served, child_of, fake_server, is_alive, post, read_all

KEY = "sixteen-or-more-characters"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """Return a server that writes its prompt again and again, as fast as it can."""
    with fake_server(folder) as running:
        yield running
        assert running.end() == (0, "")  # nothing of what was done to it is news


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0) as client:
        yield client


def error(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Hold a refusal to OpenAI's shape and return it."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]  # type: ignore[no-any-return]


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


def test_openai_s_client_lists_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["parrot"]
    assert client.models.retrieve("parrot").owned_by == "llmc"
    with pytest.raises(openai.NotFoundError, match="'gpt-4' does not exist"):
        client.models.retrieve("gpt-4")


def test_openai_s_client_gets_completions(client: openai.OpenAI) -> None:
    done = client.completions.create(
        model="parrot", prompt="hé日", max_tokens=7, n=2, logprobs=2, seed=-1, user="me"
    )
    assert [choice.index for choice in done.choices] == [0, 1]
    assert [choice.text for choice in done.choices] == ["hé日h"] * 2
    assert [choice.finish_reason for choice in done.choices] == ["length"] * 2
    assert done.usage is not None
    assert done.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 6,
        "completion_tokens": 14,
        "total_tokens": 20,
    }
    told = done.choices[0].logprobs
    assert told is not None
    assert told.tokens == ["h", *(rf"bytes:\x{byte:02x}" for byte in "é日".encode()), "h"]
    assert told.token_logprobs == [-k / 8 for k in range(7)]
    assert told.top_logprobs is not None
    assert told.top_logprobs[0] == {"h": 0.0, "i": -1.0}
    assert told.text_offset == [0, 1, 1, 2, 2, 2, 3]


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="parrot",
        prompt="hé日",
        max_tokens=7,
        n=2,
        logprobs=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.text for choice in mine) == "hé日h"
        assert [choice.finish_reason for choice in mine if choice.finish_reason] == ["length"]
        assert mine[-1].finish_reason == "length"
        offsets = [
            at for choice in mine if choice.logprobs for at in choice.logprobs.text_offset or []
        ]
        assert offsets == [0, 1, 1, 2, 2, 2, 3]
        assert all(choice.logprobs and choice.logprobs.top_logprobs is None for choice in mine)
    assert (last.choices, last.usage and last.usage.total_tokens) == ([], 20)
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_an_event_stream_is_one(server: Served) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = answer.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(part["choices"][0]["text"] for part in parts) == "aba"
    assert not any("usage" in part for part in parts)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(server: Served, stream: bool) -> None:
    """Part of it is never told, and the engine's slot is free long before its last token."""
    body = {"prompt": "one two ", "stop": ["owl", "o o"], "max_tokens": 100_000, "stream": stream}
    answer = server.complete(**body)
    if stream:
        parts = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
        choices = [part["choices"][0] for part in parts]
    else:
        choices = answer.json()["choices"]
        assert answer.json()["usage"]["completion_tokens"] == len("one two o")
    assert "".join(choice["text"] for choice in choices) == "one tw"
    assert choices[-1]["finish_reason"] == "stop"
    assert server.becomes("llmc_completions_running", 0)


def test_several_prompts_are_answered_in_order(server: Served) -> None:
    """Texts, or ids; an empty text begins with the end of a document, which ends this one."""
    done = server.complete(prompt=["ab", "", "cd"], max_tokens=2, n=2).json()
    assert [choice["text"] for choice in done["choices"]] == ["ab", "ab", "", "", "cd", "cd"]
    reasons = [choice["finish_reason"] for choice in done["choices"]]
    assert reasons == ["length"] * 2 + ["stop"] * 2 + ["length"] * 2
    done = server.complete(prompt=[[97, 98], [99.0]], max_tokens=2).json()
    assert [choice["text"] for choice in done["choices"]] == ["ab", "cc"]
    assert server.complete(max_tokens=2).json()["choices"][0]["finish_reason"] == "stop"
    written = server.complete(max_tokens=2, ignore_eos=True).json()
    assert written["choices"][0]["text"] == "<|endoftext|>" * 2


def test_a_text_may_begin_with_its_prompt(server: Served) -> None:
    done = server.complete(prompt="abc", max_tokens=2, echo=True).json()
    assert done["choices"][0]["text"] == "abcab"
    assert error(server.complete(prompt="abc", echo=True, logprobs=1), 400)["param"] == "echo"
    assert server.complete(prompt=[97], max_tokens=0, echo=True).json()["choices"][0]["text"] == "a"


def test_special_tokens_in_a_prompt_are_tokens_where_asked(server: Served) -> None:
    ask = {"prompt": "<|endoftext|>ab", "max_tokens": 1}
    assert server.complete(**ask).json()["usage"]["prompt_tokens"] == 15
    assert server.complete(**ask, special=True).json()["usage"]["prompt_tokens"] == 3
    assert error(server.complete(**ask, special="yes"), 400)["param"] == "special"


def test_a_prompt_is_read_as_texts_are(server: Served) -> None:
    done = server.complete(prompt="\ufeffa\r\nb\rc", max_tokens=0, echo=True).json()
    assert done["choices"][0]["text"] == "a\nb\nc"
    assert done["usage"]["prompt_tokens"] == 5


def test_bytes_that_are_no_text_become_one_sign(server: Served) -> None:
    done = server.complete(prompt=[0xFF, 0x61, 0xE6], max_tokens=3, logprobs=0).json()
    (choice,) = done["choices"]
    assert choice["text"] == "\ufffda\ufffd"
    assert choice["logprobs"]["tokens"] == [r"bytes:\xff", "a", r"bytes:\xe6"]


def test_a_prompt_may_be_cut_to_fit(server: Served) -> None:
    """The context is 64: a prompt of 63 leaves room for one token."""
    assert server.complete(prompt="x" * 63, max_tokens=1).status_code == 200
    for prompt in ("x" * 64, "x" * 200_000, [120] * 64):
        refused = error(server.complete(prompt=prompt), 400)
        assert (refused["code"], refused["param"]) == ("context_length_exceeded", "prompt")
    cut = {"truncate_prompt_tokens": 2, "max_tokens": 4}
    for long in ("x" * 200_000 + "ab", "ab"):
        done = server.complete(prompt=long, **cut).json()
        assert (done["choices"][0]["text"], done["usage"]["prompt_tokens"]) == ("abab", 2)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": 0.5}, "top_k"),
        ({"max_tokens": 100_001}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": 6, "prompt": ["a", "b"]}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": (1 << 63) + 1}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": 7}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {"include_obfuscation": 1}, "stream": True}, "stream_options"),
        ({"stream_options": {"include_all": True}, "stream": True}, "stream_options"),
        ({"stream_options": [], "stream": True}, "stream_options"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [5, "a"]}, "prompt"),
        ({"prompt": [257]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 11}, "prompt"),
        ({"user": 3}, "user"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"suffix": "end"}, "suffix"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_it_cannot_do_is_refused(server: Served, body: dict[str, Any], param: str) -> None:
    refused = error(server.complete(**body), 400)
    assert (refused["param"], refused["type"]) == (param, "invalid_request_error")
    assert param in refused["message"]


def test_what_asks_for_nothing_is_fine(server: Served) -> None:
    nothing = {
        "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
        "suffix": None, "stop": None, "stream": None, "n": None, "temperature": None,
        "max_tokens": None, "logprobs": None, "echo": None, "seed": None, "stream_options": None,
        "user": None,
    }  # fmt: skip
    done = server.complete(model="parrot", prompt="ab", **nothing).json()
    assert done["choices"][0]["text"] == "ab" * 8  # 16 tokens, as OpenAI's default
    assert server.complete(prompt=None).json()["choices"] == server.complete().json()["choices"]
    for asked in (True, None):
        options = {"include_usage": asked, "include_obfuscation": asked}
        told = server.complete(prompt="ab", stream=True, stream_options=options).text
        assert ('"usage":{' in told) == bool(asked)
    assert error(server.complete(model="gpt-4"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe\x00", os.urandom(999), b"[" * 100_000, b"nan",
        b'{"temperature": NaN}', b'{"seed": ' + b"9" * 5000 + b"}", b'{"prompt": "\\ud800"}',
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_request_is_refused(server: Served, body: bytes) -> None:
    kind = {"Content-Type": "application/json"}
    answer = server.client.post("/v1/completions", content=body, headers=kind)
    assert error(answer, 400)["type"] == "invalid_request_error"
    assert server.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        (b"[" * 100_000, "not valid JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"n": 1e400}', "'n'"),
        (b'{"n": Infinity}', "'n'"),
        (b"{", "not valid JSON"),
        (b'{"prompt": "' + b"x" * 800_000 + b'"}', "may have 63, and this one has 800000 "),
        (b'{"prompt": [' + b"9," * 99 + b"9]}", "may have 63, and this one has 100"),
    ],
)
def test_a_refusal_is_in_the_terms_of_json(server: Served, body: bytes, fact: str) -> None:
    """Not in those of Python."""
    kind = {"Content-Type": "application/json"}
    answer = server.client.post("/v1/completions", content=body, headers=kind)
    message = error(answer, 400)["message"]
    assert fact in message
    assert "recursion" not in message and "sys." not in message


def test_any_depth_of_json_is_refused_and_no_bug(server: Served) -> None:
    """Python may read what is too deep for it to write again."""
    kind = {"Content-Type": "application/json"}
    for depth in (10, *range(960, 1001), 2000, 5000, 20_000, 50_000):
        body = b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}"
        answer = server.client.post("/v1/completions", content=body, headers=kind)
        assert error(answer, 400)["type"] == "invalid_request_error"


def test_a_bound_of_the_server_is_in_the_refusal(folder: Path) -> None:
    with fake_server(folder, "--slots", "1", "--queue", "0") as server:
        refused = error(server.complete(prompt="ab", n=2), 400)
        assert refused["param"] == "n" and "equal to 1" in refused["message"]


def test_a_body_has_a_limit_and_a_name(server: Served) -> None:
    large = b" " * (1 << 20) + b"{}"
    kind = {"Content-Type": "application/json"}
    for content in (large, iter([large])):  # with and without its length
        answer = server.client.post("/v1/completions", content=content, headers=kind)
        assert error(answer, 413)["code"] == "body_too_large"
    for other in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = server.client.post(
            "/v1/completions", content=b"{}", headers={"Content-Type": other}
        )
        error(answer, 415)
    with server.connect() as link:  # announced only
        link.sendall(post(b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 9999999"))
        assert link.recv(999).startswith(b"HTTP/1.1 413")


def test_what_is_no_http_is_refused(server: Served) -> None:
    for data in (b"\x16\x03\x01\x02\x00" + os.urandom(99), b"GET\r\n\r\n", b"\0" * 70_000):
        assert server.raw(data).startswith(b"HTTP/1.1 400")
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000
    assert server.raw(head).startswith(b"HTTP/1.1 400")
    assert server.get("/health").json() == {"status": "ok"}


def test_who_leaves_in_the_middle_of_asking_is_no_news(server: Served) -> None:
    whole = post(json.dumps({"prompt": "ab", "max_tokens": 50}).encode())
    for length in (1, 40, len(whole) - 1, len(whole)):
        with server.connect() as link:
            link.sendall(whole[:length])
    assert server.becomes("llmc_completions_running", 0)


def test_unknown_places_and_methods(server: Served) -> None:
    assert error(server.get("/v1/chat/completions"), 404)["code"] == "unknown_url"
    answer = server.client.delete("/v1/models")
    error(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert server.client.head("/").headers["content-length"] != "0"


def test_only_this_machine_s_names_are_answered(server: Served) -> None:
    """A page whose own name was led here cannot read; one of another origin cannot write."""
    for host in ("localhost", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:99", "127.8.8.8"):
        assert server.get("/health", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "", "10.0.0.1"):
        assert error(server.get("/", headers={"Host": host}), 421)["code"] == "wrong_host"
    same = {"Origin": server.url.rstrip("/")}
    assert server.client.post("/v1/completions", json={}, headers=same).status_code == 200
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        answer = server.client.post("/v1/completions", json={}, headers={"Origin": origin})
        assert error(answer, 403)["code"] == "wrong_origin"


def test_a_key_is_asked_for_where_there_is_one(folder: Path) -> None:
    with fake_server(folder, "--host", "0.0.0.0", env={"LLMC_API_KEY": KEY}) as server:
        for path in ("/v1/models", "/metrics", "/info", "/curves", "/nothing"):
            for wrong in ("", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \xe9"):
                answer = server.get(path, headers={"Authorization": wrong.encode("latin-1")})
                assert error(answer, 401)["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/health", "/openapi.json"):
            assert server.get(path, headers={"Host": "any.example"}).status_code == 200
        with openai.OpenAI(base_url=f"{server.url}v1", api_key=KEY) as client:
            done = client.completions.create(model="parrot", prompt="ab", max_tokens=2)
        assert done.choices[0].text == "ab"
        with (
            openai.OpenAI(base_url=f"{server.url}v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError, match="LLMC_API_KEY"),
        ):
            client.models.list()


def test_it_listens_by_the_other_names_of_this_machine_too(folder: Path) -> None:
    for host, shown in (("localhost", "localhost"), ("::1", "[::1]")):
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::1", 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
        with fake_server(folder, "--host", host) as server:
            assert server.url.startswith(f"http://{shown}:")
            assert server.get("/health").json() == {"status": "ok"}


def test_a_full_queue_is_told_and_empties(folder: Path) -> None:
    """One writes and one waits; the third is refused and told when to come again."""
    with (
        fake_server(folder, "--slots", "1", "--queue", "1", "--step-seconds", "0.01") as server,
        ThreadPoolExecutor() as pool,
    ):
        first = [
            pool.submit(server.complete, prompt="a", max_tokens=400, stream=True) for _ in range(2)
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


def test_an_engine_that_dies_is_told_of(folder: Path) -> None:
    """Who waits gets 503 or an error in the stream, so does who comes later, and so does health."""
    with writing(folder) as (server, answers):
        os.kill(child_of(server.process.pid), signal.SIGKILL)
        stream, whole = (answer.result() for answer in answers)
        last = json.loads(stream.text.split("\n\n")[-2].removeprefix("data: "))
        assert "SIGKILL" in last["error"]["message"]
        assert "SIGKILL" in error(whole, 503)["message"]
        assert error(server.complete(prompt="b"), 503)["code"] == "engine_dead"
        health = server.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "dead")
        assert server.metric("llmc_engine_up") == 0
        code, said = server.end()
        assert code == 137  # as the shell says of a killed program
        assert "SIGKILL" in said and "Traceback" not in said


def test_every_answer_has_the_safe_headers(server: Served) -> None:
    for path in ("/", "/v1/models", "/nothing", "/metrics"):
        headers = server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_metrics_count(folder: Path) -> None:
    with fake_server(folder) as server:
        server.complete(prompt="abc", max_tokens=5, n=2)
        server.complete(prompt=5)
        server.get("/v1/models/x")
        server.get("/made/up")
        assert server.metric("llmc_prompt_tokens_total") == 3
        assert server.metric("llmc_completion_tokens_total") == 10
        count = "llmc_http_requests_total"
        assert server.metric(count, route="/v1/completions", status="200") == 1
        assert server.metric(count, route="/v1/completions", status="400") == 1
        assert server.metric(count, route="other", status="404") == 1
        assert server.metric("llmc_first_token_seconds_count") == 1
        assert server.metric("llmc_engine_slots") == 2
        assert server.metric("llmc_engine_up") == 1


# The command


def test_other_machines_need_a_key(llmc: Llmc) -> None:
    words = ["serve", "--host", "0.0.0.0", "--quiet"]
    assert "set LLMC_API_KEY" in assert_one_sentence(llmc(*words), 2)
    for key in ("", "short", "sixteen or more characters", "sechzehn-oder-möhr-zeichen"):
        said = assert_one_sentence(llmc(*words, env={"LLMC_API_KEY": key}), 2)
        assert "LLMC_API_KEY must be 16 or more" in said
    said = assert_one_sentence(llmc(*words, env={"LLMC_API_KEY": KEY}), 3)
    assert "no trained model" in said


def test_flags_that_exclude_each_other(llmc: Llmc) -> None:
    words = ["serve", "--run", "x", "--model", "y"]
    assert "exclude each other" in assert_one_sentence(llmc(*words), 2)
    assert "'--port'" in assert_one_sentence(llmc("serve", "--port", "65536"), 2)


def test_a_missing_package_is_named(llmc: Llmc) -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['llmc', 'serve']\n"
        "from llmc.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=llmc.workspace, env=llmc.env(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert re.search(r"pip install .*\[serve\]", assert_one_sentence(done, 3))


def test_a_port_that_is_taken_is_told(server: Served, folder: Path) -> None:
    words = [sys.executable, str(FAKE), str(folder / "parrot.bin"), "--port", str(server.port)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = assert_one_sentence(done, 2)
    assert f"port {server.port}" in said and "choose another --port" in said
