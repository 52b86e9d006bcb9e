"""Two "machines" on this one: network namespaces with names of their own and a slow link."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.helpers.mpi import Launcher, needs

HOSTS = ("h1", "h2")
SCRIPT = Path(__file__).with_name("machines.sh")
# All that is started ends with unshare.
UNSHARE = (
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--uts"),
    *("--pid", "--fork", "--kill-child"),
)
RATE = "200mbit"


def machines(name: str, folder: Path) -> Launcher:
    """Return a launcher of two ranks, one on each machine; skip the test where that cannot be.

    A file ``cut`` in the folder pulls the cable between the machines.
    """
    mpi = needs(name)
    if reason := _refused():
        pytest.skip(f"this system makes no network of its own for a test: {reason}")
    ssh = folder / "ssh"
    if name == "MPICH":
        words = ["-launcher", "ssh", "-launcher-exec", str(ssh), "-hosts", ",".join(HOSTS)]
    else:
        words = ["--mca", "plm_ssh_agent", str(ssh), "--host", ",".join(HOSTS), "--bind-to", "none"]
    argv = (*UNSHARE, "bash", str(SCRIPT), str(folder), RATE, mpi.argv[0], *words, "-n", "2")
    return mpi._replace(argv=argv)


@functools.cache
def _refused() -> str:
    """Return why there can be no such machines; empty if there can."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [*UNSHARE, "bash", str(SCRIPT), folder, RATE, "true"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        except OSError as error:
            return str(error)
    return done.stderr.strip().replace("\n", "; ") if done.returncode else ""
