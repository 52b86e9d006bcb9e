"""A run goes on bit for bit after a kill, an interrupt, a full disk; and only as the same run."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.model import ModelConfig
from llmc.tokens.files import payload_sha256, read_tokens, write_tokens
from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.engine import (
    Flags,
    Native,
    environment,
    random_tokens,
    refused,
    save_model,
    save_tokens,
    succeeded,
    without_times,
)
from tests.helpers.workspace import copy_of, metrics, ok
from tests.programs.torture import ending, settings, torture


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    return {**settings(tmp_path, 12), "threads": 2}


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    native: Native, tmp_path: Path
) -> None:
    assert torture(native, tmp_path, 40) >= 36


def test_more_steps_go_on_where_a_shorter_run_ended(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """Validations come at the end too, so the calm run is given one there."""
    flags |= {"schedule": "constant", "val_every": 6, "sample_every": 6}
    succeeded(native("train", out=tmp_path / "calm", **flags))
    succeeded(native("train", out=tmp_path / "torn", **{**flags, "steps": 6}))
    done = succeeded(native("train", out=tmp_path / "torn", resume=1, **flags))
    assert "going on from step 6" in done.stdout
    assert ending(tmp_path / "torn") == ending(tmp_path / "calm")
    again = succeeded(native("train", out=tmp_path / "torn", resume=1, **flags))
    assert "train loss" not in again.stdout
    assert ending(tmp_path / "torn") == ending(tmp_path / "calm")


def test_the_best_weights_are_those_of_the_lowest_validation_loss(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """With a rate this high the loss soon rises again."""
    flags |= {"lr": 0.05, "schedule": "constant", "val_every": 2, "keep": 7}
    succeeded(native("train", out=tmp_path / "out", **flags))
    lines = without_times((tmp_path / "out" / "metrics.jsonl").read_text())
    losses = {
        line["step"]: line["val_loss"] for line in lines if "val_loss" in line and line["step"]
    }
    best = min(losses, key=losses.__getitem__)
    assert best < 12
    saved = (tmp_path / "out" / "checkpoints" / f"{best:08}" / "model.bin").read_bytes()
    assert (tmp_path / "out" / "best.bin").read_bytes() == saved
    names = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert names == [f"{step:08}" for step in range(2, 14, 2)]


def test_a_new_best_is_saved_where_no_checkpoint_is_due(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """Patience ends the run on weights that have overfitted; the best are there all the same."""
    out = tmp_path / "out"
    flags |= {"lr": 4e-3, "schedule": "constant", "warmup": 0, "val_every": 2, "save_every": 0}
    flags |= {"keep": 1, "patience": 2, "steps": 200, "events": "json"}
    done = succeeded(native("train", out=out, **flags))
    lines = without_times((out / "metrics.jsonl").read_text())
    losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
    untrained = losses.pop(0)
    best = min(losses, key=losses.__getitem__)
    assert lines[-1]["reason"] == "early-stop" and best < lines[-1]["step"]
    header = read_header(out / "best.bin")
    assert header.step == best
    assert header.val_loss == np.float32(losses[best]) < untrained
    # One save for each that was below all before it, and one at the end.
    lowest, expected = float("inf"), []
    for step, loss in losses.items():
        expected += [step] if loss < lowest else []
        lowest = min(lowest, loss)
    assert len(expected) > 1
    events = map(json.loads, done.stdout.splitlines())
    saved = [event["step"] for event in events if event.get("event") == "saved"]
    assert saved == [*expected, lines[-1]["step"]]
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"{saved[-1]:08}"]


def test_the_untrained_model_is_no_best_one(native: Native, flags: Flags, tmp_path: Path) -> None:
    """Not even where every validation after it is worse."""
    flags |= {"lr": 10, "schedule": "constant", "val_every": 1, "save_every": 0, "steps": 2}
    succeeded(native("train", out=tmp_path / "out", **flags))
    assert read_header(tmp_path / "out" / "best.bin").step > 0


def test_weights_that_an_update_broke_replace_nothing(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """One checkpoint is kept: it stays that of the last weights whose loss is finite."""
    out = tmp_path / "out"
    flags |= {"schedule": "constant", "save_every": 1, "keep": 1, "val_every": 0, "patience": 0}
    succeeded(native("train", out=out, **{**flags, "steps": 3}))
    broken = native("train", out=out, resume=1, **{**flags, "lr": 1e9, "weight_decay": 1e9})
    error = refused(broken, 5)
    assert error.startswith("error: the loss is nan at step 4; ")
    assert "the weights of step 3 are saved, and their loss is finite; try a smaller --lr" in error
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["00000003"]
    assert read_header(out / "model.bin").step == 3
    end = without_times((out / "metrics.jsonl").read_text())[-1]
    assert (end["reason"], end["step"]) == ("not-finite", 4)
    succeeded(native("eval", model=out / "model.bin", data=flags["data"]))
    succeeded(native("train", out=out, resume=1, **flags))
    succeeded(native("train", out=tmp_path / "calm", **flags))
    assert (out / "model.bin").read_bytes() == (tmp_path / "calm" / "model.bin").read_bytes()


def interrupted_after(native: Native, words: str, **flags: object) -> list[dict[str, object]]:
    """Train, send Ctrl-C after a line that holds ``words``; return the events after that line."""
    argv = native.argv("train", events="json", **flags)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if words in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 130
    return [json.loads(line) for line in rest.splitlines()]


@pytest.mark.parametrize("what", ["validation", "sample"])
def test_an_interrupt_ends_a_validation_and_a_sample(
    what: str, native: Native, tmp_path: Path
) -> None:
    """Of which nothing is told; a run that goes on does both again. Whole they take seconds."""
    config = ModelConfig(layers=1, heads=1, channels=64, context=1024, vocab_size=60_000)
    out, V = tmp_path / "out", config.vocab_size
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", config),
        "data": save_tokens(tmp_path / "train.bin", random_tokens(500, V), V),
        "val_data": save_tokens(tmp_path / "val.bin", random_tokens(20_000, V, 4), V),
        **{"batch_size": 1, "seq_len": 4, "threads": 2, "val_every": 3, "sample_every": 3},
    }
    short: Flags = {**flags, "val_batches": 1, "sample_tokens": 4}
    long = {**flags, **({"val_batches": 5000} if what == "validation" else {"val_batches": 1})}
    long |= {"sample_tokens": 4 if what == "validation" else 1024}
    for folder in (out, tmp_path / "calm"):
        succeeded(native("train", out=folder, steps=1, **short))
    told = interrupted_after(native, '"step":2,', out=out, resume=1, steps=9, **long)
    assert [event.get("event") for event in told] == ["saved", "end"]
    assert (told[-1]["reason"], told[-1]["step"]) == ("interrupted", 3)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["00000003i"]
    for folder in (out, tmp_path / "calm"):
        succeeded(native("train", out=folder, resume=1, steps=9, **short))
    assert ending(out) == ending(tmp_path / "calm")


def test_another_order_of_the_data_is_refused(native: Native, flags: Flags, tmp_path: Path) -> None:
    succeeded(native("train", out=tmp_path / "out", **{**flags, "steps": 2}))
    for change, words in (
        ({"seed": 1}, "has --seed 1337, not 1"),
        ({"seq_len": 18}, "has --seq-len 19, not 18"),
        ({"shuffle": 0}, "has --shuffle 1, not 0"),
        ({"batch_size": 2}, "has --total-batch-size 57, not 38"),
    ):
        done = native("train", out=tmp_path / "out", resume=1, **{**flags, **change})
        assert words in refused(done, 2)
    # The same windows in other parts are the same run.
    parts: Flags = {"batch_size": 1, "total_batch_size": 57}
    succeeded(native("train", out=tmp_path / "out", resume=1, **{**flags, **parts}))


def test_a_second_trainer_in_the_same_folder_is_refused(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    lock = os.open(out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for resume in (0, 1):
        error = refused(native("train", out=out, resume=resume, **flags), 2)
        assert f"another llmc trains in {out}" in error
    os.close(lock)
    succeeded(native("train", out=out, **flags))
    error = refused(native("train", out=out, **flags), 2)
    assert "holds a run already" in error and "--resume 1" in error


@pytest.mark.parametrize("file", ["model.bin", "state.bin"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "foreign"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_good(
    damage: str, file: str, native: Native, flags: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    succeeded(native("train", out=out, **flags))
    calm = ending(out)
    newest = out / "checkpoints" / "00000012"
    path = newest / file
    data = bytearray(path.read_bytes())
    path.unlink()  # model.bin has other names
    if damage == "changed":
        data[-5] ^= 64
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-4])
    elif damage == "foreign":
        path.write_bytes(b"something else" * 1000)
    error = refused(native("train", out=out, resume=1, **flags), 1, 3)
    assert f"00000012/{file}" in error
    shutil.rmtree(newest)
    succeeded(native("train", out=out, resume=1, **flags))
    assert ending(out) == calm


def test_a_full_disk_leaves_the_checkpoint_before(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """The state is larger than a file may become: nothing of the next checkpoint stays."""
    out = tmp_path / "out"
    flags |= {"val_every": 2}  # the shorter run validates at its end, and so should the longer
    succeeded(native("train", out=out, **{**flags, "steps": 4}))
    model, state = (out / "checkpoints" / "00000004" / f for f in ("model.bin", "state.bin"))
    limit = (model.stat().st_size + state.stat().st_size) // 2

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = native.argv("train", out=out, resume=1, **flags)
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment(), preexec_fn=confine
    )
    assert "the disk has no room for" in refused(done, 1)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"00000002", "00000004"}
    succeeded(native("train", out=tmp_path / "calm", **flags))
    succeeded(native("train", out=out, resume=1, **flags))
    assert ending(out) == ending(tmp_path / "calm")


def test_shortened_metrics_are_refused(native: Native, flags: Flags, tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeeded(native("train", out=out, **flags))
    (out / "metrics.jsonl").write_text("")
    assert "metrics.jsonl was shortened" in refused(
        native("train", out=out, resume=1, **{**flags, "steps": 14}), 1
    )


# ---- the command line ----------------------------------------------------------------------------


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
        ("--lr", "0.5", "the run has --lr "),
        ("--batch-size", "3", "the run has --batch-size "),
        ("--dtype", "bf16", "the run has --dtype fp32"),
        ("--model", "models/tiny-texts.bin", "leave out --model"),
        ("--config", "tiny.toml", "leave out --config"),
        ("--val-data", "data/texts/val.bin", "leave out --val-data"),
    ):
        error = assert_one_sentence(llmc("train", "--resume", flag, value), 2)
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


def test_every_resume_is_recorded_and_another_instruction_set_is_said(llmc: Llmc) -> None:
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


def test_no_steps_that_were_made_are_taken_back(llmc: Llmc) -> None:
    ok(llmc(*TRAIN, "--run", "a", "--steps", "4"))
    run = llmc.workspace / "runs" / "a"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for steps in (0, 3, 4):
        error = assert_one_sentence(resumed_to(llmc, steps), 2)
        assert "the run runs/a has made 4 steps" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    ok(resumed_to(llmc, 5))


def test_a_run_without_a_checkpoint_begins_anew_and_says_so(llmc: Llmc) -> None:
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


def test_a_run_goes_on_without_the_weights_it_started_from(llmc: Llmc) -> None:
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


def test_data_without_a_manifest_is_held_against_its_hashes(llmc: Llmc) -> None:
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
    error = assert_one_sentence(resumed_to(llmc, 4, "--data", "data/texts"), 1)
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
