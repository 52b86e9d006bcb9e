"""Ranks that exchange floats for ever, for tests of how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.engine import Native, environment
from tests.helpers.mpi import Launcher

# Every launcher sets these for a rank, and this test may run under one.
LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "SLURM_", "HYDI_", "FAKE_", "LLMC_MPI", "LLMC_MEMORY")


def variables(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in environment().items() if not k.startswith(LAUNCHERS)}
    return {**kept, **extra}


@contextmanager
def busy(native: Native, mpi: Launcher, folder: Path, **flags: object) -> Iterator[Busy]:
    """Start ranks that exchange floats for ever, and wait until they do."""
    argv = [*mpi.argv, *native.argv("ranks", floats=1000, repeats=10**9, **flags)]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(argv, stdout=out, stderr=err, env=variables(mpi.env))
    ranks = Busy(process, folder)
    try:
        ranks.wait_for("out", "MPI: ")
        yield ranks
    finally:
        # Ranks on machines of their own have process numbers of their own, and end with them.
        for pid in ranks.pids() if "unshare" not in mpi.argv else []:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


class Busy:
    """Such ranks: their launcher, what they print."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def pids(self) -> list[int]:
        """Return the ranks' processes, by rank."""
        return [int(pid) for pid in re.findall(r", process (\d+): ", self.text("out"))]

    def wait_for(self, name: str, words: str) -> None:
        """Wait until they have printed these words; they may not end before."""
        until = time.monotonic() + 60
        while words not in self.text(name):
            assert time.monotonic() < until and self.process.poll() is None, self.text("err")
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs: it may be a zombie whose parent has not asked for it yet."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return done.stdout.strip()[:1] not in (b"", b"Z")
