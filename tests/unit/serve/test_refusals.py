"""What llmc serve refuses, and in which words."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.helpers.served import Served, fake_server, post
from tests.helpers.serving import KEY, error


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
        ({"best_of": 0}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"best_of": 11}, "best_of"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 6, "prompt": ["a", "b"]}, "best_of"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": "0"}, "frequency_penalty"),
        ({"logit_bias": {"257": -100}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
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
    assert error(server.get("/v1/embeddings"), 404)["code"] == "unknown_url"
    answer = server.client.delete("/v1/models")
    error(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert server.client.head("/").headers["content-length"] != "0"


def test_a_conversation_is_led_to_completions(server: Served) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    for body in (b"", json.dumps({"messages": messages, "stream": True}).encode()):
        answer = server.client.post("/v1/chat/completions", content=body)
        refusal = error(answer, 400)
        assert refusal["code"] == "no_chat_template"
        assert "/v1/completions" in refusal["message"]


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


PAGE, OTHER = "https://page.example", "https://other.example"
ASKS = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-any, content-type",
}


def test_pages_of_no_origin_get_cors_headers_by_default(server: Served) -> None:
    answer = server.client.options("/v1/completions", headers={"Origin": PAGE, **ASKS})
    assert error(answer, 403)["code"] == "wrong_origin"
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("key", [None, KEY])
def test_pages_of_an_origin_may_be_let_in(folder: Path, key: str | None) -> None:
    """Its preflight needs no key; the request itself does. Others are as they were."""
    env = {} if key is None else {"LLMC_API_KEY": key}
    with fake_server(folder, "--cors", PAGE, "--cors", "http://a.example", env=env) as server:
        preflight = server.client.options("/v1/completions", headers={"Origin": PAGE, **ASKS})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "x-any" in preflight.headers["access-control-allow-headers"]
        other = server.client.options("/v1/completions", headers={"Origin": OTHER, **ASKS})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        sent = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"prompt": "ab", "max_tokens": 2}
        for origin in (PAGE, "http://a.example"):
            headers = {"Origin": origin, **sent}
            answer = server.client.post("/v1/completions", json=body, headers=headers)
            assert answer.json()["choices"][0]["text"] == "ab"
            assert answer.headers["access-control-allow-origin"] == origin
            assert "Origin" in answer.headers["vary"]
        headers = {"Origin": OTHER, **sent}
        answer = server.client.post("/v1/completions", json=body, headers=headers)
        assert "access-control-allow-origin" not in answer.headers
        if key is None:
            assert error(answer, 403)["code"] == "wrong_origin"
        else:
            answer = server.client.post("/v1/completions", json=body, headers={"Origin": PAGE})
            assert error(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["access-control-allow-origin"] == PAGE  # so the page can read it


def test_pages_of_any_origin_may_be_let_in(folder: Path) -> None:
    with fake_server(folder, "--cors", "*") as server:
        for origin in (PAGE, "null"):
            answer = server.client.post("/v1/completions", json={}, headers={"Origin": origin})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "*"
        wrong = {"Origin": PAGE, "Host": "evil.example"}
        assert error(server.get("/health", headers=wrong), 421)["code"] == "wrong_host"


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
