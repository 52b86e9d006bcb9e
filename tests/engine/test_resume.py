"""The engine resumes a run bit for bit after a kill, an interrupt or a full disk."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llmc.model import ModelConfig
from llmc.weights.checkpoint import read_header
from tests.helpers.engine import Flags, Native, environment, refused, succeeded
from tests.helpers.events import without_times
from tests.helpers.models import random_tokens, save_model, save_tokens
from tests.programs.torture import ending, settings, torture


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    return {**settings(tmp_path, 12), "threads": 2}


@pytest.mark.parametrize("times", [5, pytest.param(40, marks=pytest.mark.full)])
def test_a_run_killed_many_times_ends_like_an_uninterrupted_one(
    times: int, native: Native, tmp_path: Path
) -> None:
    assert torture(native, tmp_path, times) >= 0.8 * times


def test_more_steps_continue_where_a_shorter_run_ended(
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
    flags |= {"keep": 1, "patience": 2, "steps": 200, "events": "json", "val_batches": 5}
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
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == [f"{best:08}", f"{saved[-1]:08}"]


def test_the_untrained_model_is_no_best_one(native: Native, flags: Flags, tmp_path: Path) -> None:
    """Not even where every validation after it is worse."""
    flags |= {
        "lr": 10,
        "schedule": "constant",
        "warmup": 0,
        "val_every": 1,
        "save_every": 0,
        "steps": 2,
    }
    succeeded(native("train", out=tmp_path / "out", **flags))
    assert read_header(tmp_path / "out" / "best.bin").step > 0


def test_weights_that_an_update_broke_replace_nothing(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """One checkpoint is kept: it stays that of the last weights whose loss is finite."""
    out = tmp_path / "out"
    flags |= {
        "schedule": "constant",
        "warmup": 0,
        "save_every": 1,
        "keep": 1,
        "val_every": 0,
        "patience": 0,
    }
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
    assert names == ["00000001", "00000003i"]  # the best one and the newest
    for folder in (out, tmp_path / "calm"):
        succeeded(native("train", out=folder, resume=1, steps=9, **short))
    assert ending(out) == ending(tmp_path / "calm")


def test_another_order_of_the_data_is_refused(native: Native, flags: Flags, tmp_path: Path) -> None:
    succeeded(native("train", out=tmp_path / "out", **{**flags, "steps": 2, "warmup": 1}))
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
    # The shorter run validates at its end, and so should the longer.
    flags |= {"val_every": 2, "warmup": 4, "schedule": "constant"}
    succeeded(native("train", out=out, **{**flags, "steps": 4}))
    model, state = (out / "checkpoints" / "00000004" / f for f in ("model.bin", "state.bin"))
    limit = (model.stat().st_size + state.stat().st_size) // 2

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = native.argv("train", out=out, resume=1, **flags)
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment(), preexec_fn=confine
    )
    said = refused(done, 1)
    assert "cannot write" in said and "File too large" in said and "(ulimit -f)" in said
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
