"""What is ready to train trains with the printed command, from one sentence up."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from llmc.tokens.files import write_tokens
from llmc.tokens.manifest import load_manifest
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.models import with_header_crc
from tests.helpers.workspace import copy_of, losses, metrics, ok, trained

FLAT = ["--no-shuffle", "--lr", "0", "--val-every", "0", "--batch-size", "1", "--seq-len", "40"]


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


@pytest.mark.parametrize("text", ["Hi", "Go on.", "One sentence is a text too.", "a line\n" * 40])
def test_the_printed_command_trains(llmc: Llmc, text: str) -> None:
    (llmc.workspace / "note.txt").write_text(text)
    done = ok(llmc("prepare", "note.txt", "--tokenizer", "byte", "--model", "random:tiny.toml"))
    assert "ready to train" in done.stderr
    (command,) = (
        line.split("next: ", 1)[1] for line in done.stderr.splitlines() if "llmc train" in line
    )
    ok(llmc(*shlex.split(command)[1:], "--steps", "2"))
    validated = [line for line in metrics(llmc, "note-1") if "val_loss" in line]
    made = load_manifest(llmc.workspace / "data" / "note")
    assert bool(validated) == bool(made.val.tokens)
    assert made.val.tokens or len(text) < 3
    total = made.val.tokens + made.train.tokens
    assert total == len(text) + 1


@pytest.mark.parametrize("wish", ["--batch-size", "--total-batch-size"])
def test_a_batch_larger_than_the_text_repeats_it(llmc: Llmc, wish: str) -> None:
    ids = np.random.default_rng(1).integers(0, 256, 33)
    write_tokens(llmc.workspace / "x.bin", [ids], 257)
    number = {"--batch-size": "7", "--total-batch-size": str(14 * 16)}[wish]
    flags = ["--data", "x.bin", "--model", "models/tiny-texts.bin", "--config", "tiny.toml"]
    done = ok(llmc("train", *flags, wish, number, "--val-every", "0"))
    assert "has 2 windows of 16 tokens" in done.stderr


def test_every_token_is_seen_in_an_epoch(llmc: Llmc) -> None:
    """Of 101 tokens by 40 the last window begins at 60."""
    ids = np.random.default_rng(2).integers(0, 256, 101)
    for name, some in (("all", ids), ("last", ids[60:])):
        write_tokens(llmc.workspace / f"{name}.bin", [some], 257)
    model = ["--model", "models/tiny-texts.bin"]
    found = trained(llmc, "--data", "all.bin", *FLAT, *model, "--steps", "4", run="all")
    last = trained(llmc, "--data", "last.bin", *FLAT, *model, "--steps", "1", run="last")
    assert found[2] == last[0]
    assert found[3] == found[0]


def test_an_older_run_goes_on_without_the_rest(llmc: Llmc) -> None:
    ids = np.random.default_rng(2).integers(0, 256, 101)
    write_tokens(llmc.workspace / "all.bin", [ids], 257)
    flags = ["--data", "all.bin", "--model", "models/tiny-texts.bin", *FLAT]
    trained(llmc, *flags, "--save-every", "2", "--steps", "2", run="old")
    (state,) = (llmc.workspace / "runs/old/checkpoints").glob("*/state.bin")
    raw = bytearray(state.read_bytes())
    assert raw[12] & 4
    raw[12] &= ~4  # as older versions wrote it
    state.write_bytes(with_header_crc(raw))
    ok(llmc("train", "--resume", "--run", "old", "--steps", "5", "--quiet"))
    found = losses(llmc, "old")
    assert found[2:] == [found[0], found[1], found[0]]


def test_one_token_is_too_little(llmc: Llmc) -> None:
    write_tokens(llmc.workspace / "x.bin", [np.array([1])], 257)
    assert_one_sentence(llmc("train", "--data", "x.bin", "--model", "models/tiny-texts.bin"), 1)
