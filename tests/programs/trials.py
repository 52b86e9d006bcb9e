"""What trials of a run's end share: how a run is watched, and what must hold after any end."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Trial = Callable[[random.Random], str]  # returns what happened, in a word or two
WISHES = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGXCPU)
CODES = (0, 1, 2, 3, 70, 130, 137)
SECONDS = 180  # the longest that a run may take


def assert_whole(out: Path) -> None:
    """Hold what has its final name to being whole: after any end.

    Raises:
        AssertionError: half a checkpoint.
    """
    folders = out / "checkpoints"
    for folder in folders.iterdir() if folders.exists() else ():
        if not folder.name.startswith("."):
            names = {path.name for path in folder.iterdir()}
            assert names == {"model.bin", "state.bin"}, (folder, names)


def engines(out: Path) -> list[int]:
    """Return the engines that train in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if words[1:2] == ["train"] and "--out" in words:
                folder = path.with_name("cwd").readlink() / words[words.index("--out") + 1]
                if folder == out:
                    found.append(int(path.parent.name))
    return found


def wait_for_engine(out: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while engines(out):
        assert time.monotonic() < deadline, "the engine does not end"
        time.sleep(0.02)


def steps_told(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("train_loss") if path.exists() else 0


def wait_for_steps(out: Path, steps: int, process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + SECONDS
    while steps_told(out) < steps and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, "the run does not begin"
        time.sleep(0.005)
