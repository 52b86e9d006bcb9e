"""A text with a mask from the command line: training, its plan, its validation, eval, a resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmc.config import TrainConfig
from llmc.tokens.files import read_mask, read_tokens, write_tokens
from llmc.tokens.windows import cut_windows
from llmc.train.mixture import Portion, planned_steps
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import copy_of, metrics, ok


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return a workspace with token files outside of any dataset, a third of each counts."""
    llmc = copy_of(template, tmp_path / "workspace")
    for split in ("train", "val"):
        tokens = np.array(read_tokens(llmc.workspace / "data" / "texts" / f"{split}.bin"))
        mask = (np.arange(len(tokens)) % 3 == 0).astype("u1")
        mask[::50] |= 6
        write_tokens(llmc.workspace / f"{split}_m.bin", [(tokens, mask)], 257, masked=True)
    return llmc


START = ("train", "--config", "tiny.toml", "--data", "train_m.bin", "--val-data", "val_m.bin")


def test_a_run_counts_where_the_mask_says(llmc: Llmc) -> None:
    ok(llmc("--json", *START, "--run", "m", "--steps", "4", "--save-every", "2"))
    lines = metrics(llmc, "m")
    steps = [line for line in lines if "train_loss" in line]
    assert all(line["counted"] > 0 for line in steps)
    record = json.loads((llmc.workspace / "runs" / "m" / "run.json").read_text())
    assert all("mask_sha256" in file for file in record["files"]["train"])
    told = json.loads(ok(llmc("--json", "eval", "m", "--last", "--max-tokens", "400")).stdout)
    assert told["tokens"] < 400
    tokens = np.array(read_tokens(llmc.workspace / "train_m.bin"))
    pairs = [(tokens, np.ones(len(tokens), "u1"))]
    write_tokens(llmc.workspace / "train_m.bin", pairs, 257, masked=True)
    done = llmc("train", "--run", "m", "--resume", "--steps", "6")
    assert done.returncode == 1
    assert "train_m.bin" in done.stderr


def test_aligned_windows_are_refused_where_masks_say_where_windows_begin(llmc: Llmc) -> None:
    refused = llmc(*START, "--steps", "2", "--windows", "aligned")
    assert "--windows aligned" in assert_one_sentence(refused, 2)
    mixed = [word.replace("train_m.bin", "train_m.bin:0.5") for word in START]
    ok(llmc(*mixed, "--data", "data/texts", "--steps", "2", "--windows", "aligned", "--run", "x"))


def test_a_dry_run_plans_the_windows_of_the_mask(llmc: Llmc) -> None:
    words = ("--steps", "100000", "--epochs", "3", "--dry-run")
    told = json.loads(ok(llmc("--json", *START, *words)).stdout.splitlines()[-1])
    mask = read_mask(llmc.workspace / "train_m.bin")
    windows = len([*cut_windows(mask, 16)])
    assert windows > len(mask) / 16
    assert told["work"]["steps"]["count"] == -(-3 * windows // 2)
    portion = Portion(llmc.workspace / "train_m.bin")
    settings = TrainConfig(batch_size=2, seq_len=16, epochs=3, steps=100000)
    assert planned_steps([portion], settings) == -(-3 * windows // 2)
