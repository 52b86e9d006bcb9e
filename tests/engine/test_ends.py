"""How the engine ends: divergence, interrupts, readers that leave."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llmc.weights.checkpoint import read_header
from tests.helpers.engine import (
    BATCH,
    RAGGED,
    SMALL,
    Flags,
    Native,
    environment,
    json_lines,
    random_tokens,
    refused,
    save_model,
    save_tokens,
    some_tensors,
    steps_of,
    succeeded,
)


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00001, 0x7F800000])
def test_no_number_hides_what_is_none(
    bits: int, native: Native, isas: list[str], files: Flags, tmp_path: Path
) -> None:
    """Fast-math would let a NaN or an infinity pass as if it were a number."""
    for name in ("wte", "qkvw", "lnfb", "fcb"):
        tensors = some_tensors(RAGGED)
        tensors[name].view(np.uint32).flat[0] = bits
        model = save_model(tmp_path / "model.bin", RAGGED, tensors)
        data = save_tokens(tmp_path / "data.bin", np.zeros(200, np.int64), RAGGED.vocab_size)
        for isa in isas:
            out = tmp_path / "out"
            done = native("train", isa=isa, model=model, data=data, out=out, steps=3, **BATCH)
            assert "loss" in refused(done, 5)
            assert not (out / "model.bin").exists()
            shutil.rmtree(out)


def test_a_run_that_diverges_keeps_what_was_saved(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    flags: Flags = {
        **files,
        **BATCH,
        "steps": 200,
        "lr": 10,
        "weight_decay": 10,  # the weights grow a hundredfold in a step
        "save_every": 1,
        "out": tmp_path / "out",
    }
    refused(native("train", **flags), 5)
    saved = read_header(tmp_path / "out" / "model.bin").step
    assert saved == len(steps_of(tmp_path / "out"))
    end = json_lines((tmp_path / "out" / "metrics.jsonl").read_text())[-1]
    assert (end["event"], end["reason"], end["step"]) == ("end", "not-finite", saved)
    assert not list((tmp_path / "out").glob("*.part"))


def started(native: Native, files: Flags, out: Path) -> subprocess.Popen[str]:
    flags: Flags = {**files, **BATCH, "steps": 10**6, "out": out, "events": "json"}
    flags |= {"val_every": 0, "sample_every": 0}
    child = subprocess.Popen(
        native.argv("train", **flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert child.stdout is not None
    for line in child.stdout:
        if '"step":3' in line:
            break
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_and_saves(
    number: signal.Signals, native: Native, files: Flags, tmp_path: Path
) -> None:
    with started(native, files, tmp_path / "out") as child:
        child.send_signal(number)
        rest, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (130, "")
    saved, end = json_lines(rest)[-2:]
    assert (saved["event"], end["event"], end["reason"]) == ("saved", "end", "interrupted")
    steps = len(steps_of(tmp_path / "out"))
    assert read_header(tmp_path / "out" / "model.bin").step == steps < 10**6
    again: Flags = {"model": tmp_path / "out" / "model.bin", "data": files["data"]}
    succeeded(native("train", steps=1, **again, **BATCH))


def test_a_reader_that_leaves_ends_the_trainer(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    with started(native, files, tmp_path / "out") as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.wait(60) == 0
        assert child.stderr.read() == ""
    assert not list((tmp_path / "out").glob("*.part"))
    argv = native.argv("sample", model=files["model"], tokens=10**6)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment()) as sampler:
        assert sampler.stdout is not None
        sampler.stdout.readline()
        sampler.stdout.close()
        assert sampler.wait(60) == 0


def test_no_steps_still_save(native: Native, tmp_path: Path) -> None:
    """What comes out is what went in, with its step and checksum."""
    model = save_model(tmp_path / "model.bin", SMALL)
    data = save_tokens(
        tmp_path / "data.bin", random_tokens(300, SMALL.vocab_size), SMALL.vocab_size
    )
    succeeded(native("train", model=model, data=data, steps=0, out=tmp_path / "out"))
    assert (tmp_path / "out" / "model.bin").read_bytes() == model.read_bytes()
