"""Kill random ranks of a run: ``make torture MODE=ranks``.

Each life of a run has another number of ranks (none, without a launcher, to four), of threads, and
another MPI. A random rank is killed by SIGKILL, now and then asked to stop by SIGUSR1, at a random
moment; after some seconds nothing of the run may be left. What it ends with must be what one
undisturbed process ends with.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.helpers.engine import Flags, Native, environment, succeeded
from tests.helpers.isas import runnable_isas
from tests.helpers.mpi import launcher, launchers
from tests.programs.torture import Ending, ending, settings
from tests.programs.trials import SECONDS, engines

VARIANTS: tuple[Flags, ...] = (
    {},
    {"grad_clip": 1, "dropout": 0.1},
    {"optimizer_state": "8bit"},
    {"optimizer_state": "bf16", "recompute": 1},
    {"dtype": "bf16", "optimizer": "muon"},
)
STEPS, SHARES = 140, 4  # steps enough to fill the windows of the outliers
MOST_DEATHS = 12  # of one run
GRACE = 20.0  # seconds in which all must have ended after one was killed


class TornRanks:
    """Runs of a small model that must end like undisturbed ones."""

    def __init__(self, native: Native, folder: Path) -> None:
        self.native, self.folder = native, folder
        self.flags: Flags = {**settings(folder, STEPS), "shares": SHARES}
        self.mpis = [found.name for found in launchers()]
        if not self.mpis:
            raise SystemExit("ranks need mpirun, which is not installed")
        # That of bf16 is chosen by a measurement when a run starts.
        self.isa = runnable_isas(native, folder)[-1]
        self.calm: dict[int, Ending] = {}

    def undisturbed(self, variant: int) -> Ending:
        """Return the end of one process with the settings of a variant."""
        if variant not in self.calm:
            out = self.folder / f"calm-{variant}"
            flags = {**self.flags, **VARIANTS[variant], "threads": 2}
            succeeded(self.native("train", isa=self.isa, out=out, **flags))
            self.calm[variant] = ending(out)
        return self.calm[variant]

    def trial(self, chance: random.Random) -> str:
        """Tear one run until it ends; return how often it was killed."""
        variant = chance.randrange(len(VARIANTS))
        calm, out = self.undisturbed(variant), self.folder / "torn"
        deaths = 0
        while not self.life(chance, variant, out, dies=deaths < MOST_DEATHS):
            deaths += 1
        assert ending(out) == calm, (VARIANTS[variant], deaths)
        shutil.rmtree(out)
        return f"killed {deaths:2} times"

    def life(self, chance: random.Random, variant: int, out: Path, *, dies: bool) -> bool:
        """Let a run live until a rank is killed; return whether it had ended by itself.

        Raises:
            AssertionError: it failed, or something of it is left.
        """
        count, threads = chance.randrange(5), chance.choice((1, 2, 3))
        front = launcher(chance.choice(self.mpis), count)
        assert front is not None
        flags = {**self.flags, **VARIANTS[variant], "threads": threads, "out": out, "resume": 1}
        words = self.native.argv("train", **flags)
        argv = [*front.argv, *words] if count else words
        with subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(self.isa, front.env),
            start_new_session=True,
        ) as process:
            if dies:
                wait_for_lines(process, chance.randint(0, 30))
                time.sleep(chance.random() * chance.choice((0, 0.02, 0.3)))
            killed = dies and kill_one(chance, out)
            try:
                said = process.communicate(timeout=GRACE if killed else SECONDS)[1].decode()
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert not still_there(out), argv
        ended = process.returncode == 0
        assert ended or killed, (argv, process.returncode, said)
        return ended


def wait_for_lines(process: subprocess.Popen[Any], steps: int) -> None:
    """Read what a run prints until it has told so many steps, or has ended."""
    assert process.stdout is not None
    while steps and (line := process.stdout.readline()):
        steps -= b"train loss" in line


def still_there(out: Path) -> list[int]:
    """Return the engines that have not gone a second after their launcher."""
    deadline = time.monotonic() + 1
    while (left := engines(out)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def kill_one(chance: random.Random, out: Path) -> bool:
    """Kill a random rank of the run; return whether there was one."""
    found = sorted(engines(out))
    if not found:
        return False
    how = signal.SIGUSR1 if chance.random() < 0.2 else signal.SIGKILL
    with suppress(ProcessLookupError):
        os.kill(chance.choice(found), how)
    return True
