"""Training on several ranks as a person starts it: by --launch, and under mpirun."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.mpi import NAMES, Launcher, needs
from tests.helpers.workspace import copy_of, losses, ok, started

TRAIN = ("train", "--config", "tiny.toml", "--threads", "1", "--steps", "6", "--quiet")


@pytest.fixture(params=NAMES)
def mpi(request: pytest.FixtureRequest) -> Launcher:
    return needs(request.param)


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path, mpi: Launcher) -> Llmc:
    """Return a prepared workspace, with the launcher's mpirun in front of PATH."""
    copied = copy_of(template, tmp_path / "workspace")
    return Llmc(copied.workspace, copied.cache, mpi.env)


def recorded(llmc: Llmc, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((llmc.workspace / "runs" / run / "run.json").read_text())
    return found


def under(llmc: Llmc, mpi: Launcher, *args: str) -> subprocess.CompletedProcess[str]:
    """Run llmc as mpirun starts it: once for each rank."""
    return subprocess.run(
        [*mpi.argv, *llmc.command, *args],
        cwd=llmc.workspace,
        env=llmc.env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_all_ways_to_start_ranks_give_the_same_run(llmc: Llmc, mpi: Launcher) -> None:
    ok(llmc(*TRAIN, "--run", "launched", "--launch", shlex.join(mpi.argv)))
    ok(under(llmc, mpi, *TRAIN, "--run", "started"))
    ok(llmc(*TRAIN, "--run", "alone", "--shares", "2"))
    runs = llmc.workspace / "runs"
    weights = {
        (runs / name / "model.bin").read_bytes() for name in ("launched", "started", "alone")
    }
    assert len(weights) == 1
    for name in ("launched", "started"):
        found = recorded(llmc, name)
        assert (found["processes"], found["shares"]) == (2, 2)
        assert sum(found["machines"].values()) == 2
        assert mpi.name.replace(" ", "") in found["mpi"].replace(" ", "")
    assert recorded(llmc, "alone")["mpi"] is None

    # The next start goes on alone, and says so.
    ok(llmc("train", "--resume", "--run", "launched", "--steps", "9", "--quiet"))
    ok(llmc("train", "--resume", "--run", "alone", "--steps", "9", "--quiet"))
    (resumed,) = recorded(llmc, "launched")["resumes"]
    assert (resumed["processes"], resumed["shares"]) == (1, 2)
    assert (runs / "launched/model.bin").read_bytes() == (runs / "alone/model.bin").read_bytes()


def to_llmc(process: subprocess.Popen[str], _llmc: Llmc, number: int) -> None:
    process.send_signal(number)


def to_all(process: subprocess.Popen[str], _llmc: Llmc, number: int) -> None:
    os.killpg(process.pid, number)


def to_a_rank(_process: subprocess.Popen[str], llmc: Llmc, number: int) -> None:
    """Send the signal to the last of the ranks that work in this workspace."""
    ranks = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            name, where = (folder / "comm").read_text(), (folder / "cwd").resolve(strict=True)
        except OSError:  # it has ended, or is another user's
            continue
        if name.strip() == "llmc-native" and where == llmc.workspace.resolve():
            ranks.append(int(folder.name))
    assert len(ranks) == 2
    os.kill(max(ranks), number)


@pytest.mark.parametrize(
    ("send", "number"),
    [(to_llmc, signal.SIGTERM), (to_all, signal.SIGINT), (to_a_rank, signal.SIGUSR1)],
)
def test_an_interrupt_ends_all_ranks_and_saves(
    llmc: Llmc,
    mpi: Launcher,
    send: Callable[[subprocess.Popen[str], Llmc, int], None],
    number: int,
) -> None:
    if send is to_a_rank and not Path("/proc/self/cwd").exists():
        pytest.skip("ranks are found in /proc")
    flags = ("--steps", "1000000", "--log-every", "1", "--val-every", "0", "--threads", "1")
    launch = ("--launch", shlex.join(mpi.argv))
    with started(
        llmc, "train", "--config", "tiny.toml", "--run", "long", *flags, *launch
    ) as process:
        assert process.stdout is not None
        begun = any(line.startswith("step 3:") for line in process.stdout)
        assert begun, process.communicate(timeout=60)[1]
        send(process, llmc, number)
        _, err = process.communicate(timeout=60)
    steps = len(losses(llmc, "long"))
    assert process.returncode == 130, err
    assert 3 < steps < 1_000_000
    assert read_header(llmc.workspace / "runs/long/model.bin").step == steps
    assert f"interrupted after {steps:,} of 1,000,000 steps; saved runs/long/model.bin\n" in err
    assert "error" not in err


def test_what_cannot_be_started_is_refused(llmc: Llmc, mpi: Launcher) -> None:
    missing = assert_one_sentence(llmc(*TRAIN, "--launch", "mprun -n 2"), 2)
    assert "mprun: there is no such program" in missing
    twice = under(llmc, mpi, *TRAIN, "--launch", shlex.join(mpi.argv))
    assert twice.returncode == 2
    assert twice.stderr.count("error:") == 1
    assert "has started llmc as one of several already" in twice.stderr
    budget = under(llmc, mpi, "train", "--for", "1m")
    assert budget.returncode == 2
    assert "use llmc train --launch" in budget.stderr
    tasks = llmc(*TRAIN, env={"SLURM_STEP_NUM_TASKS": "4"})
    assert "--mpi=pmix" in assert_one_sentence(tasks, 2)
    few = llmc(*TRAIN, "--shares", "1", "--launch", shlex.join(mpi.argv))
    assert "there are 2; use --shares 2" in few.stderr
    assert few.returncode == 2
    assert not list((llmc.workspace / "runs").glob("*"))
