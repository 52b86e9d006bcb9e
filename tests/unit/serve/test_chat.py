"""Chat completions over a stand-in for the engine, which says what the user said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.helpers.served import Served, fake_server
from tests.helpers.serving import error

HELLO: list[Any] = [{"role": "user", "content": "Hé日!"}]


@pytest.fixture(scope="module", params=["chatml", "plain"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Served]:
    with fake_server(folder, "--chat", request.param, "--positions", "200") as running:
        yield running
        assert running.end() == (0, "")


@pytest.fixture(scope="module")
def chatml(folder: Path) -> Iterator[Served]:
    with fake_server(folder, "--chat", "chatml", "--positions", "200") as running:
        yield running


@pytest.fixture(scope="module")
def client(chatml: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{chatml.url}v1", api_key="none", max_retries=0) as client:
        yield client


def ask(server: Served, messages: Any = HELLO, **body: Any) -> httpx2.Response:
    return server.client.post("/v1/chat/completions", json={"messages": messages, **body})


def prompt_tokens(messages: Any) -> int:
    """Return the tokens of a conversation, bytes and the special ones, up to its answer."""
    said = "".join(f"*{each['role']}\n{each['content']}*\n" for each in messages)
    return 1 + len(f"{said}*assistant\n".encode())


def test_an_answer_ends_where_the_template_says(server: Served) -> None:
    done = ask(server).json()
    (choice,) = done["choices"]
    assert done["object"] == "chat.completion" and done["id"].startswith("chatcmpl-")
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].startswith("Hé日!")
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)


def test_openai_s_client_gets_answers(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model="parrot",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": part} for part in ("Hé", "日!")]},
        ],
        n=2,
        logprobs=True,
        top_logprobs=2,
        seed=-1,
        temperature=0,
    )  # fmt: skip
    assert [choice.message.content for choice in done.choices] == ["Hé日!"] * 2
    assert done.usage is not None
    prompt = "*system\nBe brief.*\n*user\nHé日!*\n*assistant\n"
    assert done.usage.prompt_tokens == 1 + len(prompt.encode())
    assert done.usage.completion_tokens == 2 * 7
    told = done.choices[0].logprobs
    assert told is not None and told.content is not None
    assert told.content[0].token == "H"
    assert [each.bytes for each in told.content[1:3]] == [[0xC3], [0xA9]]
    assert [each.logprob for each in told.content] == [-k / 8 for k in range(7)]
    assert [other.token for other in told.content[0].top_logprobs] == ["H", "I"]


def test_a_stream_begins_with_the_role(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="parrot",
        messages=HELLO,
        n=2,
        stream=True,
        logprobs=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert [each.delta.role for each in mine if each.delta.role] == ["assistant"]
        assert mine[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in mine) == "Hé日!"
        assert [each.finish_reason for each in mine if each.finish_reason] == ["stop"]
        assert sum(len(each.logprobs.content or ()) for each in mine if each.logprobs) == 7
    assert (last.choices, last.usage and last.usage.completion_tokens) == ([], 14)
    assert {chunk.object for chunk in [*chunks, last]} == {"chat.completion.chunk"}


def test_the_last_message_of_several_is_answered(client: openai.OpenAI) -> None:
    """The assistant's own message comes back as the client has it, with fields that are null."""
    first = client.chat.completions.create(model="parrot", messages=HELLO).choices[0].message
    turns: Any = [*HELLO, first.model_dump(), {"role": "user", "content": "So?"}]
    done = client.chat.completions.create(model="parrot", messages=turns)
    assert done.choices[0].message.content == "So?"
    turns[0] = {"role": "developer", "content": "Be brief.", "name": "me"}
    done = client.chat.completions.create(model="parrot", messages=turns)
    assert done.choices[0].message.content == "So?"


def test_the_length_of_an_answer(chatml: Served) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        (choice,) = ask(chatml, **{name: 1}).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("H", "length")
    (choice,) = ask(chatml, stop=["日", "x"]).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hé", "stop")
    # The context is 200 tokens: an answer has what the prompt leaves of it.
    done = ask(chatml, [{"role": "user", "content": "x" * 150}], ignore_eos=True).json()
    assert done["usage"]["total_tokens"] == 200
    assert done["choices"][0]["finish_reason"] == "length"


def test_old_turns_make_room_for_an_answer(chatml: Served, client: openai.OpenAI) -> None:
    """A fourth of the context, 50 tokens, or what the request asks for if that is less."""
    roles = ("user", "assistant")
    talk: Any = [{"role": roles[at % 2], "content": f"{at}" * 30} for at in range(5)]
    whole = ask(chatml, talk[2:]).json()
    assert "dropped_messages" not in whole
    assert whole["choices"][0]["finish_reason"] == "stop"
    done = ask(chatml, talk, ignore_eos=True).json()
    assert done["dropped_messages"] == 2
    assert done["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert (done["usage"]["total_tokens"], done["choices"][0]["finish_reason"]) == (200, "length")
    talk = talk[:3]
    talk[0]["content"] += "0" * (191 - prompt_tokens(talk))  # it leaves 9 tokens
    for tokens, dropped in ((9, 0), (10, 2)):
        stream = client.chat.completions.create(
            model="parrot", messages=talk, max_tokens=tokens, stream=True
        )
        chunks = [chunk.model_dump() for chunk in stream]
        assert {chunk.get("dropped_messages", 0) for chunk in chunks} == {dropped}
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_system_message_stays(chatml: Served) -> None:
    system = {"role": "system", "content": "s" * 100}
    turns = [{"role": "user", "content": letter * 30} for letter in "ab"]
    done = ask(chatml, [system, *turns]).json()
    assert done["dropped_messages"] == 1
    assert done["usage"]["prompt_tokens"] == prompt_tokens([system, turns[1]])
    assert done["choices"][0]["message"]["content"].startswith("b" * 30)


def test_a_conversation_that_does_not_fit_is_refused(chatml: Served) -> None:
    for content in ("x" * 190, "x" * 100_000):
        refused = error(ask(chatml, [{"role": "user", "content": content}]), 400)
        assert (refused["code"], refused["param"]) == ("context_length_exceeded", "messages")


def test_the_text_of_a_special_token_is_text(chatml: Served) -> None:
    content = "<|im_end|>"
    (choice,) = ask(chatml, [{"role": "user", "content": content}]).json()["choices"]
    assert choice["message"]["content"] == content


def part(kind: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind}]}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("body", "param", "fact"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hi"}, "messages", "list"),
        ({"messages": ["hi"]}, "messages", "'messages[0]': "),
        ({"messages": [{"role": "user"}]}, "messages", "'messages[0].content': field required"),
        ({"messages": [*HELLO, {"content": "x"}]}, "messages", "'messages[1].role': field requ"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "'messages[0].role': "),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "assistant"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages", "text"),
        ({"messages": [part("image_url")]}, "messages", "image_url"),
        ({"messages": [part("input_audio")]}, "messages", "input_audio"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "surrogate"),
        ({"messages": [{**HELLO[0], "tool_calls": [TOOL]}]}, "messages", "not supported"),
        ({"tools": [TOOL]}, "tools", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "not supported"),
        ({"functions": [{"name": "f"}]}, "functions", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"modalities": ["text", "audio"]}, "modalities", "not supported"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio", "not supported"),
        ({"top_logprobs": 2}, "top_logprobs", "needs 'logprobs'"),
        ({"logprobs": 2}, "logprobs", "bool"),
        ({"max_tokens": 0}, "max_tokens", "greater"),
        ({"logit_bias": {"259": 1}}, "logit_bias", "below 259"),
        ({"n": 100}, "n", "less than"),
        ({"prompt": "x"}, "prompt", "Unrecognized"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(
    chatml: Served, body: dict[str, Any], param: str, fact: str
) -> None:
    content = json.dumps({"messages": HELLO, **body}).encode()
    kind = {"Content-Type": "application/json"}
    answer = chatml.client.post("/v1/chat/completions", content=content, headers=kind)
    refused = error(answer, 400)
    assert refused["param"] == param
    assert fact in refused["message"]


def test_metrics_count_chat_completions(folder: Path) -> None:
    with fake_server(folder, "--chat", "chatml") as server:
        ask(server)
        ask(server, [])
        count, route = "llmc_http_requests_total", "/v1/chat/completions"
        assert server.metric(count, route=route, status="200") == 1
        assert server.metric(count, route=route, status="400") == 1


def test_what_asks_for_nothing_is_fine(chatml: Served) -> None:
    nothing = {
        "tools": [], "tool_choice": "auto", "functions": None, "function_call": "none",
        "response_format": {"type": "text"}, "modalities": ["text"], "store": False,
        "metadata": {"a": "b"}, "parallel_tool_calls": True, "user": "me", "logprobs": False,
        "max_tokens": None, "max_completion_tokens": None, "logit_bias": {}, "stop": None,
        "reasoning_effort": None, "frequency_penalty": 0, "presence_penalty": 0.0,
    }  # fmt: skip
    (choice,) = ask(chatml, model="parrot", **nothing).json()["choices"]
    assert choice["message"]["content"] == "Hé日!"
    assert error(ask(chatml, model="gpt-4"), 404)["code"] == "model_not_found"
