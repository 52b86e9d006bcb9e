"""How ``llmc train`` ends when it cannot go on, or is told to stop."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmc.cli.context import Context
from llmc.engine.machine import Threads
from llmc.errors import Interrupted
from llmc.paths import Workspace
from llmc.preset import Preset
from llmc.train.loop import run_training
from llmc.train.plan import RunPlan
from llmc.train.record import Setup
from llmc.train.start import find_data
from llmc.weights.checkpoint import read_checkpoint, read_header, write_checkpoint
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.terminal import close_after
from tests.helpers.workspace import copy_of, losses, metrics, ok, runs, started

FOREVER = ["--steps", "1000000", "--val-every", "0", "--sample-every", "0", "--threads", "1"]
EACH = [*FOREVER, "--log-every", "1"]


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def poisoned(llmc: Llmc) -> str:
    """Write a model with a NaN in it."""
    header, tensors = read_checkpoint(llmc.workspace / "models" / "tiny-texts.bin")
    tensors["lnfw"] = np.full_like(tensors["lnfw"], np.nan)
    write_checkpoint(
        llmc.workspace / "nan.bin", header.config, tensors.items(), tokenizer=header.tokenizer
    )
    return "nan.bin"


def test_a_loss_that_is_not_finite_has_its_own_code(llmc: Llmc) -> None:
    flags = ["--model", poisoned(llmc), "--val-every", "0", "--quiet"]
    error = assert_one_sentence(llmc("train", *flags), 5)
    assert "nan" in error
    assert "before the first update" in error and "'llmc inspect nan.bin'" in error
    assert runs(llmc) == []


def test_so_has_a_validation_loss(llmc: Llmc) -> None:
    assert "nan" in assert_one_sentence(llmc("train", "--model", poisoned(llmc), "--quiet"), 5)


def test_losses_before_it_are_kept(llmc: Llmc) -> None:
    flags = ["--lr", "10", "--weight-decay", "10", "--val-every", "0", "--sample-every", "0"]
    done = llmc("train", *flags, "--run", "hot", "--steps", "50", "--quiet")
    assert_one_sentence(done, 5)
    assert losses(llmc, "hot")[0] == pytest.approx(5.57, abs=0.1)
    assert not (llmc.workspace / "runs" / "hot" / "model.bin").exists()


def under(limit: Callable[[], None], llmc: Llmc, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command with less than it needs."""
    return subprocess.run(
        [*llmc.command, *args],
        cwd=llmc.workspace,
        env=llmc.env(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_in_one_sentence_and_no_half_checkpoint(llmc: Llmc) -> None:
    """A file that may not grow any more is what a full disk is to the one who writes it."""

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = under(confine, llmc, "train", "--run", "full", "--steps", "2")
    *_, error, way = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith("error: ") and "runs/full/checkpoints/.part/model.bin" in error
    assert way == "next: llmc train --resume"
    folder = llmc.workspace / "runs" / "full"
    assert not (folder / "model.bin").exists()
    assert not list((folder / "checkpoints").glob("*/*"))
    assert "no checkpoint" in ok(llmc("train", "--resume", "--run", "full")).stderr
    confined = ("train", "--resume", "--run", "full", "--steps", "4", "--quiet")
    done = under(confine, llmc, *confined)
    assert "runs/full/checkpoints" in assert_one_sentence(done, 1)


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(words):
            return
    raise AssertionError(f"it ended without saying {words!r}")


def to_group(process: subprocess.Popen[str], number: int) -> None:
    os.killpg(process.pid, number)


def to_python(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)


@pytest.mark.parametrize(
    ("send", "numbers"),
    [
        (to_group, [signal.SIGINT]),
        (to_python, [signal.SIGINT]),
        (to_python, [signal.SIGTERM]),
        (
            to_group,
            [signal.SIGHUP, signal.SIGHUP, signal.SIGTERM],
        ),  # shell, system, service manager
        (to_group, [signal.SIGUSR1]),
    ],
)
def test_an_interrupt_finishes_the_step_and_saves(
    llmc: Llmc, send: Callable[[subprocess.Popen[str], int], None], numbers: list[int]
) -> None:
    with started(llmc, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        for number in numbers:
            send(process, number)
        _, err = process.communicate(timeout=60)
    steps = len(losses(llmc, "long"))
    assert process.returncode == 130
    assert 3 < steps < 1_000_000
    assert read_header(llmc.workspace / "runs/long/model.bin").step == steps
    assert f"interrupted after {steps:,} of 1,000,000 steps; saved runs/long/model.bin\n" in err
    assert err.count("model.bin\n") == err.count("; saved runs/long") == 1
    assert err.endswith("next: llmc train --resume\n")
    assert "Traceback" not in err
    assert "error" not in err
    assert not list((llmc.workspace / "runs/long").glob("*.part"))
    assert ok(llmc("sample", "--tokens", "2")).stdout.count("\n") == 2


def test_an_interrupt_before_the_first_step_leaves_nothing(
    llmc: Llmc, here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes to the engine or to Python."""
    here = Context(Workspace(llmc.workspace), here.ui)
    data = find_data(here.workspace, None, None)
    start = llmc.workspace / "models/tiny-texts.bin"
    preset = Preset(model=read_header(start).config)
    plan = RunPlan(Path(), preset, data, start)
    for stop in (KeyboardInterrupt, Interrupted):

        def stopped(*_: object, stop: type[BaseException] = stop, **__: object) -> None:
            assert runs(llmc) == ["a"]
            raise stop("interrupted")

        monkeypatch.setattr("llmc.train.follow.run_engine", stopped)
        with pytest.raises(stop):
            run_training(here.workspace, plan, Setup(Path("x"), "none", Threads(1)), run="a")
        assert runs(llmc) == []


def test_the_command_that_continues_names_the_run_if_another_is_newer(llmc: Llmc) -> None:
    place = str(llmc.workspace)
    with started(llmc, "--workspace", place, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        newer = llmc.workspace / "runs" / "newer" / "run.json"
        newer.parent.mkdir()
        newer.touch()
        os.utime(newer, (2e9, 2e9))
        to_python(process, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert err.endswith(f"next: llmc --workspace {place} train --resume --run long\n")


def test_an_interrupted_run_has_its_result_too(llmc: Llmc) -> None:
    log = llmc.workspace / "runs/long/metrics.jsonl"
    with started(llmc, "train", "--run", "long", "--json", *FOREVER) as process:
        while process.poll() is None and not (log.exists() and log.stat().st_size > 0):
            pass
        to_python(process, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    *_, end, result = [json.loads(line) for line in out.splitlines()]
    assert (end["event"], end["reason"]) == ("end", "interrupted")
    assert result["steps"] == len(losses(llmc, "long"))
    assert result["checkpoint"] == "runs/long/model.bin"


def steps_after(llmc: Llmc, least: int) -> int:
    """Wait until the run has recorded more steps; return how many."""
    deadline = time.monotonic() + 60
    while len(losses(llmc, "long")) <= least and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(losses(llmc, "long"))


def test_a_reader_that_leaves_early_does_not_end_the_training(llmc: Llmc) -> None:
    with started(llmc, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        made = len(losses(llmc, "long"))
        assert steps_after(llmc, made + 50) > made + 50
        to_python(process, signal.SIGTERM)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert err.count("cannot write to stdout: Broken pipe; training goes on") == 1
    assert "Traceback" not in err and "Exception ignored" not in err and "error" not in err
    steps = len(losses(llmc, "long"))
    assert read_header(llmc.workspace / "runs/long/model.bin").step == steps


def test_a_terminal_that_closes_ends_the_training_well(llmc: Llmc) -> None:
    close_after(llmc, "steps", "train", "--run", "long", *EACH)
    end = metrics(llmc, "long")[-1]
    assert (end["event"], end["reason"]) == ("end", "interrupted")
    steps = len(losses(llmc, "long"))
    assert read_header(llmc.workspace / "runs/long/model.bin").step == steps


def test_ctrl_z_stops_the_engine_too_and_fg_goes_on(llmc: Llmc) -> None:
    with started(llmc, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        to_python(process, signal.SIGTSTP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        made = len(losses(llmc, "long"))
        time.sleep(0.5)
        assert len(losses(llmc, "long")) == made
        to_python(process, signal.SIGCONT)
        assert steps_after(llmc, made) > made
        to_python(process, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted after" in err


def test_losses_reach_a_terminal_of_any_encoding(llmc: Llmc) -> None:
    latin = {"PYTHONIOENCODING": "latin-1"}
    done = llmc.raw("train", "--config", "tiny.toml", "--sample-every", "1", env=latin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"generating:") == 4
