"""What ends a run from outside: nohup, setsid, tmux, service managers, Ctrl-Z."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc
from tests.helpers.terminal import close_after
from tests.helpers.workspace import copy_of, losses, metrics, started

FOREVER = ["--steps", "1000000", "--val-every", "0", "--sample-every", "0", "--threads", "1"]
TRAIN = ["train", "--run", "long", *FOREVER, "--log-every", "1"]


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Iterator[Llmc]:
    """Yield the command line, in a prepared workspace; kill what a failed test leaves there."""
    llmc = copy_of(template, tmp_path / "workspace")
    yield llmc
    for engine in engines(llmc):
        os.kill(engine, signal.SIGKILL)


def until(true: object, seconds: float = 60) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def made(llmc: Llmc) -> int:
    log = llmc.workspace / "runs/long/metrics.jsonl"
    return len(losses(llmc, "long")) if log.exists() and log.stat().st_size else 0


def children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


def engines(llmc: Llmc) -> list[int]:
    """Return the engines that train in the run's folder."""
    place, found = str(llmc.workspace / "runs"), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
            here = (folder / "cwd").readlink() == llmc.workspace.resolve()
        except OSError:
            continue
        if here and "llmc-native" in words and ("runs/long" in words or place in words):
            found.append(int(folder.name))
    return found


def assert_saved(llmc: Llmc) -> None:
    end = metrics(llmc, "long")[-1]
    assert (end["event"], end["reason"]) == ("end", "interrupted")
    assert read_header(llmc.workspace / "runs/long/model.bin").step == made(llmc)
    assert not list((llmc.workspace / "runs/long").rglob("*.part"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="not Linux")


@needs_proc
@pytest.mark.parametrize("engine_first", [True, False])
def test_a_service_manager_tells_every_process_at_once(llmc: Llmc, engine_first: bool) -> None:
    """And kills what is there after a grace time: nothing is."""
    with started(llmc, *TRAIN) as process:
        until(lambda: made(llmc) > 3)
        everyone = [process.pid, *children(process.pid)]
        for each in reversed(everyone) if engine_first else everyone:
            os.kill(each, signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not any(Path(f"/proc/{each}").exists() for each in everyone[1:])
    assert_saved(llmc)


@needs_proc
def test_a_container_that_stops_tells_its_first_process(llmc: Llmc) -> None:
    """That is llmc; then it kills all. The engine has saved before that."""
    with started(llmc, *TRAIN) as process:
        until(lambda: made(llmc) > 3)
        everyone = [process.pid, *children(process.pid)]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        for each in everyone[1:]:
            assert not Path(f"/proc/{each}").exists()
    assert_saved(llmc)


def test_nohup_outlives_a_hang_up(llmc: Llmc) -> None:
    words = ["nohup", *llmc.command, *TRAIN]
    with subprocess.Popen(
        words,
        cwd=llmc.workspace,
        env=llmc.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        until(lambda: made(llmc) > 3)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGHUP)
        before = made(llmc)
        until(lambda: made(llmc) > before + 20)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 130
    assert_saved(llmc)


@needs_proc
@pytest.mark.skipif(shutil.which("setsid") is None, reason="setsid is not installed")
def test_setsid_outlives_its_terminal(llmc: Llmc) -> None:
    log = llmc.workspace / "log"
    begin = f'setsid "$0" "$@" > {log} 2>&1 < /dev/null &'
    script = f"{begin} while [ ! -s {log} ]; do sleep 0.1; done; echo on; sleep 60"
    close_after(llmc, "on", *TRAIN, wrapper=("sh", "-c", script))
    before = made(llmc)
    until(lambda: made(llmc) > before + 20)
    (engine,) = engines(llmc)
    os.kill(engine, signal.SIGTERM)
    until(lambda: (llmc.workspace / "runs/long/model.bin").exists() and not engines(llmc))
    assert_saved(llmc)


@needs_proc
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_the_end_of_tmux_ends_the_training_well(llmc: Llmc, tmp_path: Path) -> None:
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null"]
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "100", "-y", "40", *llmc.command, *TRAIN],
        cwd=llmc.workspace,
        env={**llmc.env(), "TERM": "xterm", "SHELL": "/bin/sh"},
        check=True,
    )
    until(lambda: made(llmc) > 3)
    subprocess.run([*tmux, "kill-server"], check=True)
    until(lambda: not engines(llmc))
    assert_saved(llmc)


def test_time_stopped_by_ctrl_z_is_no_training_time(llmc: Llmc) -> None:
    words = ["train", "--run", "long", *FOREVER[2:], "--max-time", "3s", "--log-every", "1"]
    with started(llmc, *words) as process:
        until(lambda: made(llmc) > 3)
        process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(4)
        before = made(llmc)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    lines = metrics(llmc, "long")
    assert lines[-1]["reason"] == "time" and lines[-1]["seconds"] < 4
    assert made(llmc) > before + 20
    assert max(line["step_ms"] for line in lines if "step_ms" in line) < 3000
