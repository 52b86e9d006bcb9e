"""Which flags of ``llmc sample`` are refused, and which model and tokenizer are taken."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.sample.model import find_model
from llmc.tokens.bpe import train_bpe
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.checkpoint import write_checkpoint
from llmc.weights.random import random_tensors
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.sampling import ids
from tests.helpers.workspace import assert_no_complaint, copy_of, flip_a_bit, ok, trained


@pytest.fixture
def llmc(learnt: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a workspace of its own with a trained model."""
    return copy_of(learnt, tmp_path / "workspace")


def test_choices_and_the_next_command_are_printed(learnt: Llmc) -> None:
    done = ok(learnt("sample", "--tokens", "1"))
    assert "run: runs/first (the newest)\n" in done.stderr
    assert "next: llmc sample --decode\n" in done.stderr
    done = ok(learnt("sample", "--tokens", "40", "--prompt", "das ", "--ignore-eot"))
    assert re.search(
        r"^40 tokens, [\d,.]+ tokens/s \(prompt of 4 in [\d.]+ ms\)$", done.stderr, re.M
    )
    done = ok(learnt("sample", "--tokens", "1", "--decode", "--quiet"))
    assert done.stderr == ""
    assert done.stdout != ""


def test_the_newest_run_is_taken_unless_one_is_named(llmc: Llmc) -> None:
    flags = ["--temperature", "0", "--tokens", "30"]
    first = ids(llmc, *flags)
    trained(llmc, run="second")
    second = ids(llmc, *flags)
    assert second != first
    assert ids(llmc, *flags, "--run", "second") == second
    assert ids(llmc, *flags, "--run", "first") == first
    assert ids(llmc, *flags, "--model", "runs/first/model.bin") == first


def test_a_model_finds_its_tokenizer_by_fingerprint(llmc: Llmc) -> None:
    done = ok(llmc("tokenize", "texts", "--tokenizer", "bpe:280", "--out", "data/bpe", "--json"))
    tokenizer = bytes.fromhex(json.loads(done.stdout)["tokenizer"]["fingerprint"])
    config = ModelConfig(1, 2, 16, 64, 280)
    model = llmc.workspace / "mine.bin"
    write_checkpoint(model, config, random_tensors(config, 1), tokenizer=tokenizer)
    done = llmc("sample", "--model", "mine.bin", "--prompt", "Größe", "--decode", "--tokens", "9")
    assert ok(done).stdout.startswith("Größe")
    ok(llmc("train", "--data", "data/bpe", "--model", "mine.bin", "--steps", "1", "--run", "bpe"))
    shutil.rmtree(llmc.workspace / "data")  # the run has recorded it too
    found = find_model(Workspace(llmc.workspace), None, model, needs_tokenizer=True)
    assert found.tokenizer is not None
    assert found.tokenizer.fingerprint == tokenizer.hex()
    shutil.rmtree(llmc.workspace / "runs")
    for flag in (["--decode"], ["--prompt", "a"]):
        error = assert_one_sentence(llmc("sample", "--model", "mine.bin", *flag), 1)
        assert "tokenizer of mine.bin is unknown" in error
        assert "'llmc decode --tokenizer NAME'" in error
    assert len(ids(llmc, "--model", "mine.bin", "--tokens", "4")) == 4
    done = ok(llmc("sample", "--model", "mine.bin", "--tokens", "4", "--json"))
    assert json.loads(done.stdout)["text"] is None


def test_a_checkpoint_of_llm_c_speaks_gpt2(tmp_path: Path, gpt2: Tokenizer) -> None:
    config = ModelConfig(1, 1, 4, 8, gpt2.vocab_size)
    path = tmp_path / "llmc.bin"
    write_checkpoint(path, config, random_tensors(config, 1))
    workspace = Workspace(tmp_path)
    found = find_model(workspace, None, path, needs_tokenizer=True)
    assert found.tokenizer is not None
    assert found.tokenizer.fingerprint == gpt2.fingerprint
    fingerprint = bytes.fromhex(train_bpe(["some words"], 258).fingerprint)
    write_checkpoint(path, config, random_tensors(config, 1), tokenizer=fingerprint)
    assert find_model(workspace, None, path).tokenizer is None


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--run", "first", "--model", "x.bin"], 2, "--run and --model exclude each other"),
        (["--model", "x.bin"], 3, "make one with 'llmc export-weights MODEL'"),
        (["--model", "runs/first"], 2, "runs/first is a folder"),
        (["--model", "runs/first"], 2, "--run NAME"),
        (["--seed", "9007199254740993"], 2, "between 0 and 9007199254740992, not 9007199254740993"),
        (["--run", "second"], 3, "run 'llmc train --run second' first"),
        (["--model", "tiny.toml"], 1, "tiny.toml"),
        (["--model", "data/texts/train.bin"], 1, "data/texts/train.bin"),
        (["--temperature", "-1"], 2, "'--temperature'"),
        (["--temperature", "hot"], 2, "'--temperature'"),
        (["--top-p", "1.5"], 2, "'--top-p'"),
        (["--tokens", "-1"], 2, "'--tokens'"),
        (["--threads", "0"], 2, "'--threads'"),
        (["--min-p", "1.5"], 2, "'--min-p'"),
        (["--repetition-penalty", "0"], 2, "'--repetition-penalty'"),
        (["--num-samples", "0"], 2, "'--num-samples'"),
        (["--dtype", "fp16"], 2, "'--dtype'"),
        (["--stop", ""], 2, "--stop needs at least one character"),
        (["--prompt", "a", "--prompt-file", "b"], 2, "--prompt and --prompt-file exclude"),
        (["--prompt-file", "nowhere.txt"], 1, "cannot read the prompt from nowhere.txt: No such"),
        (["-i"], 2, "-i needs a terminal"),
        (["-i", "--num-samples", "2"], 2, "leave out --json and --num-samples"),
    ],
)
def test_impossible_flags_are_refused(learnt: Llmc, flags: list[str], code: int, said: str) -> None:
    assert said in assert_one_sentence(learnt("sample", "--quiet", *flags), code)


def test_no_run_names_the_command(learnt: Llmc, tmp_path: Path) -> None:
    empty = Llmc(tmp_path, learnt.cache)
    assert "run 'llmc train' first" in assert_one_sentence(empty("sample"), 3)


def test_a_damaged_checkpoint_is_refused(llmc: Llmc) -> None:
    path = llmc.workspace / "runs/first/model.bin"
    data = flip_a_bit(path, -1)
    assert "checksum" in assert_one_sentence(llmc("sample", "--quiet"), 1)
    path.write_bytes(data[:-1])
    assert "cut short" in assert_one_sentence(llmc("sample", "--quiet"), 1)


@pytest.mark.parametrize("flags", [[], ["--decode"]])
def test_a_reader_that_leaves_early_is_no_error(learnt: Llmc, flags: list[str]) -> None:
    with learnt.start("sample", "--tokens", "1000000", *flags) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(2)) == 2  # it comes while the rest is being made
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert_no_complaint(errors)
