"""llmc serve over the real engine with a model for conversations: it answers as llmc chat does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Llmc
from tests.helpers.served import Served, served
from tests.helpers.workspace import PRESET, ok

ASKED = "What is 7?"


@pytest.fixture(scope="module")
def llmc(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    folder = tmp_path_factory.mktemp("chat") / "workspace"
    folder.mkdir()
    (folder / "tiny.toml").write_text(PRESET.replace("context = 64", "context = 256"))
    with (folder / "chat.jsonl").open("w") as file:
        for row in range(60):
            said = [("user", f"What is {row}?"), ("assistant", f"A number: {row}.")]
            messages = [{"role": role, "content": text} for role, text in said]
            file.write(json.dumps({"messages": messages}) + "\n")
    made = Llmc(folder, cache)
    ok(made("prepare", "chat.jsonl", "--tokenizer", "byte", "--model", "random:tiny.toml"))
    flags = ["--steps", "20", "--seq-len", "64", "--run", "helper", "--quiet"]
    ok(made("train", "--config", "tiny.toml", *flags))
    return made


@pytest.fixture(scope="module")
def server(llmc: Llmc) -> Iterator[Served]:
    argv = [*llmc.command, "serve", "--port", "0", "--slots", "2"]
    with served(argv, llmc.env(), llmc.workspace) as running:
        yield running


def ask(server: Served, messages: list[dict[str, str]], **body: Any) -> Any:
    answer = server.client.post("/v1/chat/completions", json={"messages": messages, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_answers_as_llmc_chat(llmc: Llmc, server: Served) -> None:
    for seed, temperature in ((1, 0), (5, 0.8)):
        flags = ["--seed", str(seed), "--temperature", str(temperature), "--tokens", "30"]
        words = ["--json", "chat", "helper", "--prompt", ASKED, *flags]
        expected = json.loads(ok(llmc(*words)).stdout.splitlines()[-1])
        settings = {"seed": seed, "temperature": temperature, "max_tokens": 30}
        done = ask(server, [{"role": "user", "content": ASKED}], **settings)
        content = done["choices"][0]["message"]["content"]
        assert content.rstrip() == expected["message"]["content"]
        assert done["usage"]["prompt_tokens"] == expected["prompt_tokens"]


def test_a_next_turn_reads_what_is_new(server: Served) -> None:
    """The whole first turn is cached but for the end of its last piece."""
    turns = [{"role": "user", "content": ASKED * 6}]
    first = ask(server, turns, max_tokens=20, seed=3)
    answer = first["choices"][0]["message"]
    turns += [
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": "So?"},
    ]
    second = ask(server, turns, max_tokens=5, seed=3)["usage"]
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert first["usage"]["prompt_tokens"] - 16 - 16 <= cached < second["prompt_tokens"]
