"""How the engine ends: divergence, interrupts, readers that leave."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmc.weights.checkpoint import read_header
from tests.helpers.engine import BATCH, Flags, Native, environment, refused, succeeded
from tests.helpers.events import json_lines, steps_of
from tests.helpers.models import RAGGED, SMALL, random_tokens, save_model, save_tokens, some_tensors


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


def started(
    native: Native, files: Flags, out: Path, *, steps: int = 10**6
) -> subprocess.Popen[str]:
    flags: Flags = {**files, **BATCH, "steps": steps, "out": out, "events": "json"}
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


HANG_UP = [signal.SIGHUP, signal.SIGHUP, signal.SIGTERM]  # of a shell, of the system; of a manager


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGINT],
        [signal.SIGTERM, signal.SIGTERM],
        HANG_UP,
        [*HANG_UP, signal.SIGINT],
        [signal.SIGUSR1],
        [signal.SIGXCPU],
    ],
    ids=lambda numbers: "+".join(number.name for number in numbers),
)
def test_an_interrupt_finishes_the_step_and_saves(
    numbers: list[signal.Signals], native: Native, files: Flags, tmp_path: Path
) -> None:
    with started(native, files, tmp_path / "out") as child:
        for number in numbers:
            child.send_signal(number)
        rest, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (130, "")
    saved, end = json_lines(rest)[-2:]
    assert (saved["event"], end["event"], end["reason"]) == ("saved", "end", "interrupted")
    steps = len(steps_of(tmp_path / "out"))
    assert read_header(tmp_path / "out" / "model.bin").step == steps < 10**6
    again: Flags = {"model": tmp_path / "out" / "model.bin", "data": files["data"]}
    succeeded(native("train", steps=1, **again, **BATCH))


def test_a_reader_that_leaves_does_not_end_the_training(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    with started(native, files, tmp_path / "out", steps=400) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.wait(60) == 0
        said = child.stderr.read()
    assert said.count("\n") == 1 and "Broken pipe; training goes on" in said
    assert len(steps_of(tmp_path / "out")) == 400
    assert read_header(tmp_path / "out" / "model.bin").step == 400
    argv = native.argv("sample", model=files["model"], tokens=10**6)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment()) as sampler:
        assert sampler.stdout is not None
        sampler.stdout.readline()
        sampler.stdout.close()
        assert sampler.wait(60) == 0


def test_a_disk_too_full_for_stdout_does_not_end_the_training(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("this system has no /dev/full")
    argv = native.argv("train", **files, **BATCH, steps=20, out=tmp_path / "out")
    with device.open("wb") as full:
        done = subprocess.run(
            argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment()
        )
    assert done.returncode == 0 and "No space left on device" in done.stderr
    assert len(steps_of(tmp_path / "out")) == 20


def small_pipe() -> tuple[int, int, int]:
    """Return a pipe that does not block, and more steps than it has room for."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    if not hasattr(fcntl, "F_SETPIPE_SZ"):
        return read, write, 2000
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    return read, write, 200


def test_a_pipe_that_does_not_block_loses_no_line(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    read, write, steps = small_pipe()
    argv = native.argv("train", **files, **BATCH, steps=steps, out=tmp_path / "out", events="json")
    with subprocess.Popen(argv, stdout=write, env=environment()) as child:
        os.close(write)
        time.sleep(0.5)  # the pipe is full
        with os.fdopen(read, encoding="utf-8") as reader:
            lines = json_lines(reader.read())
        assert child.wait(60) == 0
    assert [line["step"] for line in lines if "train_loss" in line] == list(range(steps))


@pytest.mark.full
def test_a_pipe_that_nobody_reads_does_not_end_the_training(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    """It takes nothing more for ten seconds: then training goes on without it."""
    read, write, steps = small_pipe()
    argv = native.argv("train", **files, **BATCH, steps=steps, out=tmp_path / "out", events="json")
    done = subprocess.run(
        argv,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
        env=environment(),
    )
    os.close(write)
    os.close(read)
    assert done.stderr.count("\n") == 1 and "training goes on" in done.stderr
    assert len(steps_of(tmp_path / "out")) == steps


STARTER = """
import subprocess, sys
engine = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
print(engine.pid, flush=True)
for line in engine.stdout: pass
"""


def test_the_end_of_its_starter_ends_the_training(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    """Nobody could find it any more, and it would hold the run's folder."""
    out = tmp_path / "out"
    argv = native.argv("train", **files, **BATCH, steps=10**6, out=out, events="json")
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, *map(str, argv)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as starter:
        assert starter.stdout is not None
        engine = int(starter.stdout.readline())
        while not (out / "metrics.jsonl").exists() or len(steps_of(out)) < 3:
            time.sleep(0.01)
        starter.kill()
    deadline = time.monotonic() + 60
    while alive(engine) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(engine)
    assert json_lines((out / "metrics.jsonl").read_text())[-1]["reason"] == "interrupted"
    assert read_header(out / "model.bin").step == len(steps_of(out))


def alive(pid: int) -> bool:
    """Whether a process is there; one that has ended and that nobody waits for is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_no_steps_still_save(native: Native, tmp_path: Path) -> None:
    """What comes out is what went in, with its step and checksum."""
    model = save_model(tmp_path / "model.bin", SMALL)
    data = save_tokens(
        tmp_path / "data.bin", random_tokens(300, SMALL.vocab_size), SMALL.vocab_size
    )
    succeeded(native("train", model=model, data=data, steps=0, out=tmp_path / "out"))
    assert (tmp_path / "out" / "model.bin").read_bytes() == model.read_bytes()
