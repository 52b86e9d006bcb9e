"""The validation loss of a run is a property of its weights and of the text, not of B and T."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.tokens.files import read_tokens, write_tokens
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import PRESET, config, copy_of, metrics, ok

CONTEXT = 64  # of the tiny model
NEW = PRESET.replace("val_batches = 2\n", "")


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    copy = copy_of(template, tmp_path / "workspace")
    (copy.workspace / "new.toml").write_text(NEW)
    return copy


def measured(llmc: Llmc, *flags: str | Path, run: str) -> dict[str, Any]:
    """Return the validation of the untrained model."""
    words = ["train", "--config", "new.toml", "--steps", "0", "--run", run, "--quiet", *flags]
    ok(llmc(*words))
    (line,) = (line for line in metrics(llmc, run) if "val_loss" in line)
    return line


def evaluated(llmc: Llmc, *flags: str | Path) -> dict[str, Any]:
    done = ok(llmc("--json", "eval", "models/tiny-texts.bin", "--data", "data/texts", *flags))
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("tokens", [0, 1, 63, 64, 300, 1000, 10**6])
def test_it_is_the_same_for_any_batch_and_the_evaluation_s(llmc: Llmc, tokens: int) -> None:
    wanted = ("--val-tokens", str(tokens))
    shapes = [(1, 1), (1, 64), (3, 7), (5, 16), (8, 64), (16, 33)]
    lines = [
        measured(llmc, *wanted, "--batch-size", str(B), "--seq-len", str(T), run=f"{B}x{T}")
        for B, T in shapes
    ]
    assert all(line == lines[0] for line in lines)
    score = evaluated(llmc, *(("--max-tokens", str(tokens)) if tokens else ()))
    assert lines[0]["val_loss"] == pytest.approx(score["loss"], rel=1e-8)
    split = len(read_tokens(llmc.workspace / "data/texts/val.bin")) - 1
    assert score["tokens"] == (min(tokens, split) or split)


def test_the_default_is_20480_tokens_or_all_there_are(llmc: Llmc) -> None:
    assert measured(llmc, run="all")["val_loss"] == pytest.approx(evaluated(llmc)["loss"], rel=1e-8)
    assert config(llmc, "all")["train"]["val_tokens"] == 20480
    ids = np.random.default_rng(1).integers(0, 256, 40_000)
    write_tokens(llmc.workspace / "large.bin", [ids], 257)
    some = measured(llmc, "--val-data", "large.bin", run="some")
    same = measured(llmc, "--val-data", "large.bin", "--val-tokens", "20480", run="same")
    assert some == same
    every = measured(llmc, "--val-data", "large.bin", "--val-tokens", "0", run="every")
    assert some != every
    assert abs(some["val_loss"] - every["val_loss"]) < 4 * some["val_error"]


def test_the_windows_are_spread_over_the_whole_split(llmc: Llmc) -> None:
    """A change anywhere in the split but in the gaps moves the loss; the gaps are even."""
    ids = np.zeros(64 * 40 + 1, np.int64)
    write_tokens(llmc.workspace / "v.bin", [ids], 257)
    flags = ("--val-data", "v.bin", "--val-tokens", str(64 * 8))
    before = measured(llmc, *flags, run="before")
    for number, at in enumerate((0, 1000, 2000, 64 * 40 - 320)):
        changed = ids.copy()
        changed[at : at + 320] = 7
        write_tokens(llmc.workspace / "v.bin", [changed], 257)
        assert measured(llmc, *flags, run=str(number))["val_loss"] != before["val_loss"]


def test_shards_validate_as_the_joined_file_does(llmc: Llmc) -> None:
    whole = measured(llmc, run="whole")
    ids = read_tokens(llmc.workspace / "data/texts/val.bin")
    for number, piece in enumerate(np.array_split(ids, 5)):
        write_tokens(llmc.workspace / f"v{number}.bin", [piece], 257)
    assert measured(llmc, "--val-data", "v?.bin", run="shards") == whole


def test_its_standard_error_is_that_of_the_windows(llmc: Llmc) -> None:
    line = measured(llmc, run="a")
    native = ok(llmc("--json", "eval", "models/tiny-texts.bin", "--data", "data/texts/val.bin"))
    assert json.loads(native.stdout.splitlines()[-1])["loss"] == pytest.approx(line["val_loss"])
    assert 0 < line["val_error"] < 0.1
    assert "val_error" not in measured(llmc, "--val-tokens", "64", run="single")
    done = ok(llmc("--json", "runs"))
    found = {run["run"]: run for run in json.loads(done.stdout)["runs"]}
    assert found["a"]["val_error"] == found["a"]["best_val_error"] == line["val_error"]
    assert found["single"]["val_error"] is None


def test_the_summary_shows_the_error(llmc: Llmc) -> None:
    done = ok(llmc("train", "--config", "new.toml"))
    assert re.search(r"val loss \d\.\d{4} ± \d\.\d{4},", done.stderr)
    assert re.search(r"^val loss \d\.\d{6} ± \d\.\d{6}$", done.stdout, re.M)


def test_batches_are_taken_as_tokens(llmc: Llmc) -> None:
    by_tokens = measured(llmc, "--val-tokens", str(3 * 2 * 16), run="tokens")
    assert measured(llmc, "--val-batches", "3", run="batches") == by_tokens
    kept = config(llmc, "batches")["train"]
    assert (kept["val_tokens"], kept["val_batches"]) == (96, 0)
    assert_one_sentence(llmc("train", "--val-batches", "3", "--val-tokens", "9"), 2)


def test_a_run_of_an_older_llmc_goes_on_measuring_its_batches(llmc: Llmc) -> None:
    """Its config names batches and no tokens; its first batches are what it measured."""
    flags = ("--save-every", "2", "--run", "a")
    ok(llmc("train", "--config", "new.toml", *flags, "--steps", "2", "--quiet"))
    path = llmc.workspace / "runs/a/config.toml"
    old = re.sub(r"val_tokens = \d+\n", "", path.read_text())
    path.write_text(old.replace("val_batches = 0", "val_batches = 2"))
    record = llmc.workspace / "runs/a/run.json"
    fields = json.loads(record.read_text())
    del fields["settings"]
    record.write_text(json.dumps(fields))
    ok(llmc("train", "--resume", "--run", "a", "--steps", "4", "--quiet"))
    assert config(llmc, "a")["train"]["val_batches"] == 2
    last = metrics(llmc, "a")[-2]
    assert last["step"] == 4
    assert list(last) == ["step", "val_loss"]
    first = read_tokens(llmc.workspace / "data/texts/val.bin")[: 2 * 2 * 16 + 1]
    write_tokens(llmc.workspace / "first.bin", [first], 257)
    done = ok(llmc("--json", "eval", "a", "--data", "first.bin", "--seq-len", "16"))
    assert json.loads(done.stdout.splitlines()[-1])["loss"] == pytest.approx(last["val_loss"])
    ok(llmc("train", "--resume", "--run", "a", "--steps", "5", "--val-tokens", "64", "--quiet"))
    assert config(llmc, "a")["train"]["val_batches"] == 0
