"""Special tokens and line ends in a prompt, and escapes in --stop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmc.paths import Workspace
from llmc.sample.loaded import load
from tests.conftest import Llmc
from tests.helpers.workspace import ok

END = "<|endoftext|>"


def sampled(llmc: Llmc, *args: str) -> dict[str, Any]:
    done = ok(llmc("sample", "--tokens", "40", "--seed", "3", "--json", *args))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def trained(llmc: Llmc) -> Llmc:
    """Return a workspace with a run on bytes."""
    llmc.workspace.mkdir(parents=True, exist_ok=True)
    text = llmc.workspace / "text.txt"
    text.write_text("one line\nanother line\n" * 400)
    ok(llmc("tokenize", str(text), "--tokenizer", "byte"))
    shape = ("--layers", "1", "--heads", "1", "--channels", "16", "--context", "64")
    ok(llmc("export-weights", "random", *shape, "--vocab-size", "257", "--tokenizer", "byte"))
    flags = ("--batch-size", "2", "--seq-len", "32", "--lr", "0.01", "--steps", "60")
    ok(llmc("train", "--val-every", "0", *flags))
    return llmc


def test_a_special_token_in_a_prompt_is_text_unless_asked(trained: Llmc) -> None:
    as_text = ok(trained("sample", "--prompt", END, "--tokens", "1", "--decode"))
    assert f"{END} in the prompt is taken as text" in as_text.stderr
    assert "--special" in as_text.stderr
    assert sampled(trained, "--prompt", END)["prompt_tokens"] == len(END)
    asked = sampled(trained, "--prompt", f"{END}one", "--special")
    assert asked["ids"][:4] == [256, *b"one"]
    quiet = ok(trained("sample", "--prompt", END, "--special", "--tokens", "1", "--decode"))
    assert "taken as text" not in quiet.stderr
    refused = trained("sample", "--special")
    assert refused.returncode == 2
    assert "--special" in refused.stderr


def test_a_stop_string_may_have_escapes(trained: Llmc) -> None:
    free = sampled(trained, "--prompt", "one")["text"].removeprefix("one")
    assert "\n" in free
    stopped = sampled(trained, "--prompt", "one", "--stop", r"\n")
    assert stopped["reason"] == "stop"
    assert stopped["text"].removeprefix("one") == free.partition("\n")[0]


def test_line_ends_of_a_prompt_are_those_of_the_texts(trained: Llmc) -> None:
    prompt = ("--prompt", "\ufeffone\r\ntwo\rthree")
    done = ok(trained("sample", "--tokens", "1", "--json", *prompt))
    assert json.loads(done.stdout)["ids"][:-1] == [*b"one\ntwo\nthree"]
    assert "CR LF" in done.stderr
    kept = trained.workspace / "kept.txt"
    kept.write_bytes(b"one line\r\nanother line\r\n" * 100)
    ok(trained("tokenize", str(kept), "--tokenizer", "byte", "--newlines", "keep"))
    ok(trained("train", "--data", str(trained.workspace / "data/kept"), "--steps", "1"))
    done = ok(trained("sample", "--tokens", "1", "--json", *prompt))
    assert json.loads(done.stdout)["ids"][:-1] == [*b"one\r\ntwo\rthree"]
    assert "CR LF" not in done.stderr


def test_in_python_a_prompt_is_read_the_same(
    trained: Llmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(trained.cache))
    with load(Workspace(trained.workspace)) as model:
        assert model.model.ids("a\r\nb") == [*b"a\nb"]
        assert model.model.ids(f"{END}a", special=True) == [256, *b"a"]
        assert model.sample("one", tokens=3) == model.sample("\ufeffone", tokens=3)
        model.sample(f"{END}one", tokens=3, special=True)
