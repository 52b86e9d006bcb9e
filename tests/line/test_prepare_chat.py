"""``llmc prepare`` of conversations with a model: it gets the tokens of the chat template."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmc.model import ModelConfig
from llmc.tokens.manifest import load_manifest
from llmc.tokens.template import CHATML, IM_END, IM_START
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.checkpoint import read_checkpoint, read_header, write_checkpoint
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.models import some_tensors
from tests.helpers.workspace import copy_of, ok, trained

GROWN = "models/run-chatml.bin"


def write_chat(path: Path, rows: int = 40) -> Path:
    """Write conversations of two turns."""
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            said = [("user", f"What is {row}?"), ("assistant", f"A number: {row}.")]
            messages = [{"role": role, "content": text} for role, text in said]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture(scope="module")
def with_run(template: Llmc, tmp_path_factory: pytest.TempPathFactory) -> Llmc:
    """Return a workspace with a run, ``run``, on bytes, and conversations."""
    llmc = copy_of(template, tmp_path_factory.mktemp("chat") / "workspace")
    trained(llmc)
    write_chat(llmc.workspace / "chat.jsonl")
    return llmc


@pytest.fixture
def llmc(with_run: Llmc, tmp_path: Path) -> Llmc:
    return copy_of(with_run, tmp_path / "workspace")


def test_the_model_of_a_run_gets_the_tokens_of_the_template(llmc: Llmc) -> None:
    said = ok(llmc("prepare", "chat.jsonl", "--model", "run")).stderr
    assert IM_START in said and GROWN in said
    made = load_manifest(llmc.workspace / "data" / "chat")
    tokenizer = made.load_tokenizer()
    assert tokenizer.template == CHATML
    header, tensors = read_checkpoint(llmc.workspace / GROWN)
    assert header.tokenizer == bytes.fromhex(made.tokenizer.fingerprint)
    assert header.config.vocab_size == made.tokenizer.vocab_size == 259
    rows = tensors["wte"]
    np.testing.assert_allclose(rows[258], rows[:257].mean(axis=0), rtol=1e-4, atol=1e-8)
    place = json.loads((llmc.workspace / "data/chat/prepared.json").read_text())["model"]
    assert place == GROWN
    ok(llmc("train", "--data", "chat", "--steps", "2", "--seq-len", "16", "--batch-size", "2"))


def test_a_copy_that_is_there_is_kept_until_the_run_changes(llmc: Llmc) -> None:
    ok(llmc("prepare", "chat.jsonl", "--model", "run"))
    grown = llmc.workspace / GROWN
    before, raw = grown.stat().st_mtime_ns, grown.read_bytes()
    for words in (["chat.jsonl", "--model", "run"], ["data/chat"]):
        assert "whole" in ok(llmc("prepare", *words)).stderr
        assert grown.stat().st_mtime_ns == before
    grown.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    ok(llmc("prepare", "chat.jsonl", "--model", "run"))
    assert grown.read_bytes() == raw
    run = llmc.workspace / "runs/run"
    header, tensors = read_checkpoint(run / "model.bin")
    moved = {name: values + 1 for name, values in tensors.items()}
    (run / "best.bin").unlink(missing_ok=True)
    known = header.tokenizer
    write_checkpoint(run / "model.bin", header.config, moved.items(), tokenizer=known)
    ok(llmc("prepare", "chat.jsonl", "--model", "run"))
    assert grown.read_bytes() != raw


def test_a_file_keeps_its_type_of_number(llmc: Llmc) -> None:
    ok(llmc("export-weights", "run", "--dtype", "bf16", "--out", "models/half.bin"))
    ok(llmc("prepare", "chat.jsonl", "--model", "models/half.bin"))
    header = read_header(llmc.workspace / "models/half-chatml.bin")
    assert (header.dtype, header.config.vocab_size) == ("bf16", 259)


def test_text_without_conversations_leaves_the_model_as_it_is(llmc: Llmc) -> None:
    ok(llmc("prepare", "texts", "--model", "run", "--out", "data/again"))
    assert not (llmc.workspace / GROWN).exists()


def test_the_plain_template_needs_no_new_tokens(llmc: Llmc) -> None:
    ok(llmc("prepare", "chat.jsonl", "--model", "run", "--template", "plain"))
    assert not (llmc.workspace / "models/run-plain.bin").exists()
    assert load_manifest(llmc.workspace / "data/chat").tokenizer.template == "plain"


def test_training_names_the_command_that_adds_the_tokens(llmc: Llmc) -> None:
    ok(llmc("tokenize", "chat.jsonl", "--tokenizer", "byte"))
    run = ["train", "--data", "chat", "--steps", "2", "--seq-len", "16", "--batch-size", "2"]
    refused = assert_one_sentence(llmc(*run, "--model", "runs/run/model.bin"), 1)
    assert IM_START in refused
    words = shlex.split(refused[refused.index('"') + 1 : refused.rindex('"')])
    assert words[:3] == ["llmc", "export-weights", "run"]
    ok(llmc(*words[1:]))
    ok(llmc(*run, "--model", GROWN))


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(["--model", "models/gpt2.bin"], marks=pytest.mark.full),
        pytest.param(["--model", "gpt2"], marks=pytest.mark.full),
        [],
    ],
)
def test_gpt2_gets_them_where_its_weights_are_there(
    named: list[str], llmc: Llmc, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmc.train.prepare.fetch_named", lambda *_, **__: None)
    config = ModelConfig(1, 1, 8, 64, 50257)
    path = llmc.workspace / "models" / "gpt2.bin"
    fingerprint = bytes.fromhex(gpt2.fingerprint)
    write_checkpoint(path, config, some_tensors(config).items(), tokenizer=fingerprint)
    ok(llmc("prepare", "chat.jsonl", *named))
    grown = llmc.workspace / "models/gpt2-chatml.bin"
    header = read_header(grown)
    assert header.config == replace(config, vocab_size=50259)
    special = load_manifest(llmc.workspace / "data/chat").load_tokenizer().special_tokens
    assert (special[IM_START], special[IM_END]) == (50257, 50258)
    (llmc.workspace / "data/chat/prepared.json").unlink()
    before = grown.stat().st_mtime_ns
    assert "gpt2-chatml.bin" in ok(llmc("prepare", "data/chat", "--tokenizer", "gpt2")).stderr
    assert grown.stat().st_mtime_ns == before
