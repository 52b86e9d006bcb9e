"""``llmc train --resume``: the same run continues bit for bit, and only the same run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.tokens.files import payload_sha256, read_tokens, write_tokens
from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.models import save_model
from tests.helpers.workspace import copy_of, metrics, ok


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


TRAIN = ("train", "--config", "tiny.toml", "--quiet")


def untimed(llmc: Llmc, run: str) -> list[dict[str, object]]:
    kept = ("step", "train_loss", "val_loss", "lr", "grad_norm")
    return [{k: line[k] for k in kept if k in line} for line in metrics(llmc, run)]


def test_a_run_is_resumed_by_its_name_or_as_the_newest(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "calm", "--steps", "9", "--val-every", "3"))
    ok(llmc(*TRAIN, "--run", "torn", "--steps", "3", "--val-every", "3"))
    ok(llmc("train", "--resume", "--run", "torn", "--steps", "6", "--quiet"))
    done = ok(llmc("train", "--resume", "--steps", "9", "--json"))
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 9
    assert untimed(llmc, "torn") == untimed(llmc, "calm")
    first, second = (llmc.workspace / "runs" / run / "model.bin" for run in ("calm", "torn"))
    assert first.read_bytes() == second.read_bytes()


def test_a_resumed_run_takes_what_changes_no_bit_and_refuses_the_rest(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    for flag, value, words in (
        ("--batch-size", "3", "does not divide: use one of 1, 2"),
        ("--seq-len", "8", "the run has --seq-len 16"),
        ("--seed", "8", "the run has --seed 1337"),
        ("--no-shuffle", "", "the run has --shuffle True"),
        ("--total-batch-size", "64", "the run has --total-batch-size 32"),
        ("--model", "models/tiny-texts.bin", "leave out --model"),
        ("--config", "tiny.toml", "leave out --config"),
    ):
        error = assert_one_sentence(llmc("train", "--resume", *filter(None, (flag, value))), 2)
        assert words in error
    ok(llmc("train", "--resume", "--steps", "4", "--threads", "1", "--keep", "3", "--recompute"))
    assert len([line for line in metrics(llmc, "a") if "train_loss" in line]) == 4


def test_without_a_run_or_with_other_data_there_is_nothing_to_resume(llmc: Llmc) -> None:
    error = assert_one_sentence(llmc("train", "--resume"), 3)
    assert "run 'llmc train' first" in error
    error = assert_one_sentence(llmc("train", "--resume", "--run", "none"), 3)
    assert "llmc train --run none" in error
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    ok(llmc("tokenize", "texts", "--tokenizer", "byte", "--val-fraction", "0.3", "--quiet"))
    error = assert_one_sentence(llmc("train", "--resume", "--steps", "4"), 1)
    assert "is not what runs/a was trained on" in error


def test_a_run_explains_itself(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    record = json.loads((llmc.workspace / "runs" / "a" / "run.json").read_text())
    assert record["command"].startswith("llmc train --config tiny.toml")
    assert record["data"] == "data/texts/train.bin"
    assert record["model"] == "models/tiny-texts.bin"
    assert record["manifest"]["dataset"] == "texts"
    assert {"llmc", "python", "platform", "git"} <= record.keys()
    assert (record["recipe"], record["dtype"], record["resumes"]) == ("tiny", "fp32", [])
    assert {split: len(files) for split, files in record["files"].items()} == {"train": 1, "val": 1}
    assert record["files"]["train"] == record["manifest"]["train"]
    header = read_header(llmc.workspace / "models" / "tiny-texts.bin")
    assert record["weights_crc32"] == f"{header.crc:08x}"
    binary = Path(json.loads(ok(llmc("build", "--json")).stdout)["binary"])
    assert record["engine"] == binary.parent.name


def test_every_resume_is_recorded_and_another_instruction_set_reported(llmc: Llmc) -> None:
    def with_isa(isa: str, *args: str) -> str:
        return ok(llmc("train", *args, env={"LLMC_ISA": isa})).stderr

    with_isa("plain", "--config", "tiny.toml", "--run", "a", "--steps", "2", "--threads", "2")
    said = with_isa("plain", "--resume", "--steps", "4", "--threads", "1")
    assert "settings: tiny; " in said
    assert "instruction set" not in said
    said = with_isa("generic", "--resume", "--steps", "6", "--threads", "2")
    assert "instruction set plain and continues with generic" in said
    record = record_of(llmc, "a")
    assert (record["isa"], record["threads"]) == ("plain", 2)
    assert [(each["isa"], each["threads"], each["step"]) for each in record["resumes"]] == [
        ("plain", 1, 2),
        ("generic", 2, 4),
    ]
    for each in (record, *record["resumes"]):
        assert datetime.fromisoformat(each["time"]).tzinfo is not None
        assert each["command"].startswith("llmc train ")
        assert {"llmc", "python", "platform", "engine"} <= each.keys()
    shutil.rmtree(llmc.workspace / "runs" / "a" / "checkpoints")
    assert "instruction set" not in with_isa("generic", "--resume", "--threads", "1")
    record = record_of(llmc, "a")
    assert (record["isa"], record["threads"], record["resumes"][2]["step"]) == ("generic", 1, 0)


def test_a_run_goes_on_with_the_instruction_set_that_was_measured_first(
    llmc: Llmc, isas: list[str]
) -> None:
    """A measurement on a busy machine may end otherwise another time, and the bits with it."""
    floats = [isa for isa in isas if isa in ("avx512", "avx2", "neon")][-1]
    for run, steps in (("whole", "4"), ("parts", "2")):
        flags = ("--run", run, "--steps", steps, "--dtype", "bf16")
        ok(llmc(*TRAIN, *flags, env={"LLMC_ISA": floats}))
    assert "instruction set" not in ok(llmc("train", "--resume", "--steps", "4")).stderr
    record = record_of(llmc, "parts")
    assert [record["isa"], record["resumes"][0]["isa"]] == [floats, floats]
    runs = llmc.workspace / "runs"
    assert (runs / "parts/model.bin").read_bytes() == (runs / "whole/model.bin").read_bytes()


def test_no_steps_that_were_made_are_taken_back(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "a", "--steps", "4"))
    run = llmc.workspace / "runs" / "a"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for steps in (0, 3, 4):
        error = assert_one_sentence(resumed_to(llmc, steps), 2)
        assert "the run runs/a has made 4 steps" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    ok(resumed_to(llmc, 5))


def test_a_run_without_a_checkpoint_starts_again_and_reports_it(llmc: Llmc) -> None:
    """As one that was killed before it saved any."""
    ok(llmc(*TRAIN, "--run", "a", "--steps", "4"))
    run, model = llmc.workspace / "runs" / "a", llmc.workspace / "models" / "tiny-texts.bin"
    losses = untimed(llmc, "a")
    shutil.rmtree(run / "checkpoints")
    model.rename(llmc.workspace / "kept.bin")
    assert_one_sentence(llmc("train", "--resume"), 3)
    save_model(model, read_header(llmc.workspace / "kept.bin").config)
    error = assert_one_sentence(llmc("train", "--resume"), 1)
    assert "models/tiny-texts.bin is not what runs/a started from" in error
    (llmc.workspace / "kept.bin").rename(model)
    done = ok(llmc("train", "--resume"))
    assert "runs/a has no checkpoint" in done.stderr
    assert untimed(llmc, "a") == losses


def test_a_run_resumes_without_the_weights_it_started_from(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    (llmc.workspace / "models" / "tiny-texts.bin").unlink()
    ok(resumed_to(llmc, 4))


def record_of(llmc: Llmc, run: str) -> dict[str, Any]:
    text = (llmc.workspace / "runs" / run / "run.json").read_text()
    record: dict[str, Any] = json.loads(text)
    return record


def resumed_to(llmc: Llmc, steps: int, *args: str) -> subprocess.CompletedProcess[str]:
    return llmc("train", "--resume", "--steps", str(steps), "--quiet", *args)


def turned_round(path: Path) -> None:
    """Write the tokens of a file the other way round, which leaves their number as it is."""
    write_tokens(path, [np.array(read_tokens(path))[::-1].astype(np.int64)], 257)


def test_data_without_a_manifest_is_compared_with_its_hashes(llmc: Llmc) -> None:
    files = {"mine.bin": "trained", "other.bin": "validated"}
    for name, split in zip(files, ("train.bin", "val.bin"), strict=True):
        (llmc.workspace / "data" / "texts" / split).rename(llmc.workspace / name)
    ok(llmc(*TRAIN, "--data", "mine.bin", "--val-data", "other.bin", "--run", "a", "--steps", "2"))
    for name, words in files.items():
        path = llmc.workspace / name
        before = path.read_bytes()
        turned_round(path)
        error = assert_one_sentence(resumed_to(llmc, 4), 1)
        assert f"{name} is not what runs/a was {words} on" in error
        path.write_bytes(before)
    ok(resumed_to(llmc, 4))
    (llmc.workspace / "mine.bin").rename(llmc.workspace / "far.bin")
    assert "--data" in assert_one_sentence(resumed_to(llmc, 6), 3)
    ok(resumed_to(llmc, 6, "--data", "far.bin"))
    assert record_of(llmc, "a")["data"] == "far.bin"


def test_a_manifest_that_came_later_changes_nothing(llmc: Llmc) -> None:
    """Not even that the run has no validation."""
    folder = llmc.workspace / "data" / "texts"
    (folder / "manifest.json").rename(llmc.workspace / "kept.json")
    ok(llmc(*TRAIN, "--data", "data/texts/train.bin", "--run", "a", "--steps", "2"))
    (llmc.workspace / "kept.json").rename(folder / "manifest.json")
    ok(resumed_to(llmc, 4))
    assert not any("val_loss" in line for line in metrics(llmc, "a"))


def test_another_validation_text_is_refused_as_other_training_text_is(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    folder = llmc.workspace / "data" / "texts"
    turned_round(folder / "val.bin")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["val"][0]["sha256"] = payload_sha256(folder / "val.bin")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    error = assert_one_sentence(resumed_to(llmc, 4), 1)
    assert "val.bin is not what runs/a was validated on" in error


def test_data_that_was_moved_is_known_by_its_hashes(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "calm", "--steps", "6"))
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    (llmc.workspace / "data" / "texts").rename(llmc.workspace / "elsewhere")
    assert "--data" in assert_one_sentence(resumed_to(llmc, 4), 3)
    ok(llmc("tokenize", "texts", "--tokenizer", "byte", "--val-fraction", "0.3", "--quiet"))
    error = assert_one_sentence(resumed_to(llmc, 4), 1)
    assert "data/texts/train.bin is not what runs/a was trained on" in error
    ok(resumed_to(llmc, 4, "--data", "elsewhere"))
    ok(resumed_to(llmc, 6))  # the record knows the new place
    record = record_of(llmc, "a")
    assert (record["data"], record["val_data"]) == ("elsewhere/train.bin", "elsewhere/val.bin")
    assert untimed(llmc, "a") == untimed(llmc, "calm")


def test_an_older_record_will_do(llmc: Llmc) -> None:
    """It has neither hashes nor an instruction set; of a dataset it has the manifest."""
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    path = llmc.workspace / "runs" / "a" / "run.json"
    record = record_of(llmc, "a")
    for name in ("files", "isa", "resumes", "recipe", "weights_crc32"):
        del record[name]
    path.write_text(json.dumps(record))
    ok(resumed_to(llmc, 4))
    path.write_text(json.dumps({**record, "manifest": None}))
    done = ok(llmc("train", "--resume", "--steps", "6"))
    assert "run.json is from an older llmc" in done.stderr
    damage: list[dict[str, Any]] = [{"files": []}, {"files": {"train": [1]}}, {"data": 3}]
    for change in (*damage, {"resumes": 1}):
        path.write_text(json.dumps({**record, **change}))
        assert "cannot read runs/a/run.json" in assert_one_sentence(resumed_to(llmc, 8), 1)


def test_a_refused_resume_changes_nothing_and_damaged_metrics_are_cut(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "a", "--steps", "2"))
    run = llmc.workspace / "runs" / "a"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lock = os.open(run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    error = assert_one_sentence(llmc("train", "--resume", "--steps", "9", "--quiet"), 2)
    assert "another llmc trains in" in error
    os.close(lock)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    small = {"LLMC_MEMORY": "1000000"}
    error = assert_one_sentence(llmc("train", "--resume", "--steps", "9", "--quiet", env=small), 2)
    assert "but only 1.00 MB are available" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\xff no metrics\n" * 2 + b'{"step": 2, "tr')
    ok(llmc("train", "--resume", "--steps", "4", "--quiet"))
    assert [line["step"] for line in metrics(llmc, "a") if "train_loss" in line] == [0, 1, 2, 3]
