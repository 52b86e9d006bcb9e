"""What ``llmc train`` refuses to begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmc.model import ModelConfig
from llmc.tokens.files import write_tokens
from llmc.weights.checkpoint import write_checkpoint
from llmc.weights.random import random_tensors
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import copy_of, losses, metrics, ok, runs, started, trained

TINY = ModelConfig(1, 2, 16, 64, 257)
FOREVER = ["--steps", "1000000", "--val-every", "0", "--sample-every", "0", "--threads", "1"]


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


@pytest.mark.parametrize(
    ("missing", "flags", "command"),
    [
        ("data", [], "llmc prepare NAME"),
        ("models", [], "llmc prepare data/texts --model random:"),
        ("", ["--data", "nowhere"], "llmc prepare NAME"),
        ("", ["--data", "texts"], "llmc tokenize NAME"),
        ("", ["--val-data", "nowhere.bin"], "llmc tokenize PATH"),
        ("", ["--model", "nowhere.bin"], "llmc export-weights"),
        ("data/texts/train.bin", [], "llmc tokenize"),
    ],
)
def test_a_stage_that_has_not_run_is_named(
    llmc: Llmc, missing: str, flags: list[str], command: str
) -> None:
    if missing:
        (llmc.workspace / missing).rename(llmc.workspace / "gone")
    said = llmc("train", *flags)
    assert_one_sentence(said, 3)
    assert command in said.stderr
    assert runs(llmc) == []


def changed(path: str, at: int) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        data = bytearray((workspace / path).read_bytes())
        data[at] ^= 1
        (workspace / path).write_bytes(data)

    return change


def cut(path: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        os.truncate(workspace / path, (workspace / path).stat().st_size - 1)

    return change


def foreign(path: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        (workspace / path).write_bytes(b"something else, quite long " * 100)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        changed("data/texts/train.bin", 1500),
        changed("data/texts/val.bin", 1500),
        changed("data/texts/train.bin", 8),
        cut("data/texts/train.bin"),
        foreign("data/texts/train.bin"),
        foreign("data/texts/manifest.json"),
        foreign("data/texts/prepared.json"),
        changed("models/tiny-texts.bin", 5000),
        cut("models/tiny-texts.bin"),
        foreign("models/tiny-texts.bin"),
    ],
)
def test_what_was_damaged_or_tampered_with_is_refused(
    llmc: Llmc, damage: Callable[[Path], None]
) -> None:
    damage(llmc.workspace)
    assert_one_sentence(llmc("train", "--quiet"), 1)
    assert runs(llmc) == []


def test_a_token_outside_the_vocabulary_is_refused(llmc: Llmc) -> None:
    tokens = np.full(2000, 5)
    tokens[1234] = 257
    write_tokens(llmc.workspace / "x.bin", [tokens], 300)
    error = assert_one_sentence(llmc("train", "--data", "x.bin", "--quiet"), 1)
    assert "x.bin" in error
    assert "257" in error
    assert not (llmc.workspace / "runs" / "x-1" / "model.bin").exists()


def test_data_and_a_model_of_different_tokenizers_are_refused(llmc: Llmc) -> None:
    ok(llmc("tokenize", "texts", "--tokenizer", "bpe:270", "--out", "data/bpe"))
    error = assert_one_sentence(llmc("train", "--data", "data/bpe", *model()), 1)
    assert "was made for another tokenizer than data/bpe (bpe)" in error
    write_checkpoint(llmc.workspace / "small.bin", TINY, random_tensors(TINY, 1))
    error = assert_one_sentence(llmc("train", "--data", "data/bpe", "--model", "small.bin"), 1)
    assert "data/bpe uses 270 tokens, but small.bin knows only 257" in error
    ok(llmc("train", "--data", "data/texts", "--model", "small.bin", "--steps", "1"))
    assert runs(llmc) == ["texts-1"]


def model() -> list[str]:
    return ["--model", "models/tiny-texts.bin"]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--lr", "abc"], 2, "'--lr'"),
        (["--lr", "nan"], 2, "'--lr'"),
        (["--steps", "-1"], 2, "'--steps'"),
        (["--steps", "1.5"], 2, "'--steps'"),
        (["--batch-size", "0"], 2, "'--batch-size'"),
        (["--seq-len", "65"], 2, "--seq-len 65 is more than the 64 positions of models/tiny-"),
        (["--beta1", "1"], 2, "'--beta1'"),
        (["--seed", str(2**53 + 2)], 2, "'--seed'"),
        (["--threads", "99999"], 2, "--threads"),
        (["--resume", "--dry-run"], 2, "--dry-run is for a new run"),
        (["--run", "a/b"], 2, "'a/b' is not a folder name"),
        (["--run", ".."], 2, "'..' is not a folder name"),
        (["--run", ""], 2, "'' is not a folder name"),
        (["--config", "tiny-gpt"], 2, "no preset 'tiny-gpt'"),
        (["--config", "missing.toml"], 2, "cannot read the config missing.toml"),
        (["--stepz", "3"], 2, "--steps"),
        (["extra"], 2, "extra"),
    ],
)
def test_flags_that_make_no_sense_leave_nothing(
    llmc: Llmc, flags: list[str], code: int, said: str
) -> None:
    assert said in assert_one_sentence(llmc("train", "--quiet", *flags), code)
    assert runs(llmc) == []


def test_an_unknown_key_names_the_nearest(llmc: Llmc) -> None:
    (llmc.workspace / "mine.toml").write_text("[train]\nbatchsize = 3\n")
    error = assert_one_sentence(llmc("train", "--config", "mine.toml"), 2)
    assert "mine.toml [train]: unknown key 'batchsize'; did you mean 'batch_size'?" in error


def test_a_run_that_exists_is_not_overwritten(llmc: Llmc) -> None:
    trained(llmc, run="mine")
    before = metrics(llmc, "mine")
    error = assert_one_sentence(llmc("train", "--run", "mine"), 2)
    assert "the run runs/mine exists: " in error
    assert metrics(llmc, "mine") == before


def together(llmc: Llmc, *args: str) -> list[tuple[int, str]]:
    """Run a command twice at the same time; return the codes and what was said, the best first."""
    with started(llmc, *args) as first, started(llmc, *args) as second:
        said = [process.communicate(timeout=120)[1] for process in (first, second)]
        return sorted(zip((first.returncode, second.returncode), said, strict=True))


def test_of_two_that_begin_the_same_run_one_is_refused_and_destroys_nothing(llmc: Llmc) -> None:
    (code, _), (other, said) = together(llmc, "train", "--config", "tiny.toml", "--run", "same")
    assert (code, other) == (0, 2)
    assert "error: the run runs/same exists: " in said
    assert {path.name for path in (llmc.workspace / "runs" / "same").iterdir()} == {
        "best.bin", "checkpoints", "config.toml", "metrics.jsonl", "model.bin", "run.json",
        "tokenizer.json",
    }  # fmt: skip
    assert len(losses(llmc, "same")) == 4


def test_two_without_a_name_get_two_numbers(llmc: Llmc) -> None:
    assert [code for code, _ in together(llmc, "train", "--config", "tiny.toml")] == [0, 0]
    assert runs(llmc) == ["texts-1", "texts-2"]
    assert losses(llmc, "texts-1") == losses(llmc, "texts-2")


def test_a_folder_of_runs_that_cannot_be_made_is_refused(llmc: Llmc) -> None:
    (llmc.workspace / "runs").write_text("not a folder")
    assert "cannot write" in assert_one_sentence(llmc("train", "--quiet"), 1)
