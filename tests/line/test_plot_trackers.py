"""``llmc plot`` writes for TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmc.train.history import read_run
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import ok, without_package


def test_tensorboard_reads_what_was_written(two: Llmc) -> None:
    script = """
import json, sys, warnings
warnings.simplefilter("ignore")
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    sys.exit(9)
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
tags = events.Tags()["scalars"]
told = {tag: [(e.wall_time, e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
print(json.dumps(told))
"""
    for _ in range(2):  # written again, nothing is there twice
        done = ok(two("plot", "fast", "slow", "--tensorboard", "tb"))
    assert "next: tensorboard --logdir tb" in done.stderr
    (path,) = (two.workspace / "tb" / "fast").iterdir()
    read = subprocess.run(
        [sys.executable, "-c", script, str(path.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    if read.returncode == 9:
        pytest.skip("tensorboard is not installed")
    assert read.returncode == 0, read.stderr
    told: dict[str, list[Any]] = json.loads(read.stdout)
    assert set(told) == {
        "loss/train", "loss/validation", "gradient norm", "learning rate", "tokens per second",
    }  # fmt: skip
    run = read_run(two.workspace / "runs" / "fast")
    train = told["loss/train"]
    assert [step for _, step, _ in train] == run.steps
    assert [value for _, _, value in train] == [float32(y) for y in run.measured["train_loss"]]
    assert [time for time, _, _ in train] == pytest.approx(
        [run.started + step / 100 for step in range(100)], abs=1e-3
    )
    assert [(s, v) for _, s, v in told["loss/validation"]] == [(s, float32(v)) for s, v in run.val]
    assert len(told["learning rate"]) == 100


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_a_missing_tensorboard_is_one_sentence(two: Llmc, tmp_path: Path) -> None:
    path = without_package(tmp_path, "tensorboard")
    done = two("plot", "fast", "--tensorboard", "tb", env=path)
    assert "tensorboard" in assert_one_sentence(done, 2)
    assert not (two.workspace / "tb").exists()


def test_a_missing_wandb_is_one_sentence(two: Llmc, tmp_path: Path) -> None:
    path = without_package(tmp_path, "wandb")
    error = assert_one_sentence(two("plot", "--wandb", "w", env=path), 2)
    assert re.search(r"--wandb needs the package wandb: .*pip install wandb", error)
    assert not (two.workspace / "w").exists()


def test_wandb_gets_an_offline_run(two: Llmc) -> None:
    # Its file is a log as LevelDB has it: blocks of 32 KiB, pieces of records in them.
    script = """
import json, struct, sys
from wandb.proto.wandb_internal_pb2 import Record
data, at, record = open(sys.argv[1], "rb").read(), 7, b""
while at < len(data):
    if 32768 - at % 32768 < 7:
        at += 32768 - at % 32768
    length, kind = struct.unpack_from("<HB", data, at + 4)
    record += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # whole, or the last piece
        told, record = Record.FromString(record), b""
        if told.WhichOneof("record_type") == "history":
            items = told.history.item
            told = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
            print(json.dumps(told))
"""
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    done = ok(two("plot", "fast", "--wandb", "w", "--json"))
    (place,) = (two.workspace / path for path in json.loads(done.stdout)["written"])
    (path,) = place.glob("*.wandb")
    read = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
    told = [json.loads(line) for line in read.stdout.splitlines()]
    run = read_run(two.workspace / "runs" / "fast")
    losses = [line["loss/train"] for line in told if "loss/train" in line]
    assert losses == run.measured["train_loss"]
    assert [line["loss/validation"] for line in told if "loss/validation" in line] == [
        loss for _, loss in run.val
    ]
