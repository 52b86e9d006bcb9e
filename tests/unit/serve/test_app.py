"""llmc serve over a stand-in for the engine: what is answered, what is refused, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest

from tests.helpers.served import Served, fake_server
from tests.helpers.serving import error


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
        "prompt_tokens_details": {"cached_tokens": 0},
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
    assert server.complete(prompt=[97], max_tokens=0, echo=True).json()["choices"][0]["text"] == "a"


def test_the_probabilities_of_a_prompt_are_told_with_echo(client: openai.OpenAI) -> None:
    """As lm-eval asks for them; the first token has none."""
    done = client.completions.create(
        model="parrot", prompt=["hé日", "a"], max_tokens=1, echo=True, logprobs=1
    )
    told = done.choices[0].logprobs
    assert told is not None and told.token_logprobs is not None
    assert done.choices[0].text == "hé日h"
    assert told.tokens == ["h", *(rf"bytes:\x{byte:02x}" for byte in "é日".encode()), "h"]
    assert told.token_logprobs == [None, -1, -2, -3, -4, -5, 0]
    assert told.text_offset == [0, 1, 1, 2, 2, 2, 3]
    assert told.top_logprobs is not None
    assert told.top_logprobs[0] is None
    assert told.top_logprobs[-1] == {"h": 0}
    alone = done.choices[1].logprobs
    assert alone is not None
    assert (alone.tokens, alone.token_logprobs) == (["a", "a"], [None, 0])
    assert done.usage is not None and done.usage.completion_tokens == 2


def test_an_echo_without_more_is_the_prompt_s_probabilities(server: Served) -> None:
    """Also of an incomplete character, and piece by piece; a stop string is not sought in it."""
    ask = {"prompt": [97, 0xC3], "max_tokens": 0, "echo": True, "logprobs": 0, "stop": "a"}
    (choice,) = server.complete(**ask).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a\ufffd", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1]
    assert choice["logprobs"]["top_logprobs"] is None
    parts = [
        json.loads(line[6:])["choices"][0]
        for line in server.complete(**ask, stream=True).text.split("\n\n")[:-2]
    ]
    assert "".join(part["text"] for part in parts) == "a\ufffd"
    told = [value for part in parts for value in part["logprobs"]["token_logprobs"]]
    assert told == [None, -1]


def test_the_token_that_ends_an_echo_is_told(server: Served) -> None:
    """Clients that score a prompt expect one token behind it, whichever it is."""
    ask = {"prompt": "<|endoftext|>a", "special": True, "max_tokens": 1, "logprobs": 1}
    (choice,) = server.complete(**ask, echo=True).json()["choices"]
    assert choice["logprobs"]["tokens"] == ["<|endoftext|>", "a", "<|endoftext|>"]
    assert (choice["text"], choice["finish_reason"]) == ("<|endoftext|>a", "stop")
    assert server.complete(**ask).json()["choices"][0]["logprobs"]["tokens"] == []


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
