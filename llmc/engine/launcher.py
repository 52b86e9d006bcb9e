"""Programs such as mpirun and srun, which start the engine several times: its ranks.

Either llmc runs the launcher (``--launch``), which then starts the engines; or the launcher has
started llmc itself several times, and the engine of each joins those of the others. The variables
that a launcher sets tell a process which rank it is. Whoever has them takes part, so that every
other program that this process starts must not see them.
"""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import shutil
import stat
import struct
import termios
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from llmc.errors import Usage
from llmc.installation import install_command

VARIABLE = "LLMC_LAUNCH"
# The variables that begin so tell a process of its ranks, or join it to them.
MARKS = ("HYDI_", "HYDRA_", "MPI_LOCAL", "OMPI_", "PMI_", "PMIX_", "PRTE_", "SLURM_")
# Those of the number of this rank, each with that of how many there are; Slurm's PMIx has none.
NUMBERED = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
)
DESCRIPTORS = ("PMI_FD", "HYDI_CONTROL_FD")  # through which MPICH's launcher talks to a rank
ANSWER_SECONDS = 2.0


class Rank(NamedTuple):
    """Which of the processes that a launcher started this one is."""

    number: int  # from 0 on
    of: int  # how many there are; 0: the launcher does not tell
    launcher: str  # "mpirun" or "srun"


@dataclass(frozen=True)
class Launch:
    """How a training run's engine is started."""

    command: tuple[str, ...] = ()  # the words before the engine's own; empty: it starts directly
    joins: bool = False  # it joins those of the other processes that this one's launcher started

    @property
    def several(self) -> bool:
        """Whether there may be several ranks."""
        return bool(self.command) or self.joins

    @property
    def name(self) -> str:
        """The launcher's program, without its folder."""
        return os.path.basename(self.command[0]) if self.command else "the launcher"  # noqa: PTH119

    @property
    def flags(self) -> list[str]:
        """What is typed to start it in the same way again; empty where the variable says it."""
        typed = shlex.join(self.command)
        return ["--launch", typed] if typed and typed != os.environ.get(VARIABLE) else []

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open files that a rank's engine needs."""
        numbers = (os.environ.get(name, "") for name in DESCRIPTORS if self.joins)
        return tuple(int(number) for number in numbers if number.isdecimal() and _open(int(number)))

    def environment(self) -> dict[str, str]:
        """Return the environment of a program that is started so.

        The engine finds the MPI library beside the first mpirun of PATH: a launcher's own.
        """
        known = dict(os.environ)
        if not self.several:
            return {name: value for name, value in known.items() if not name.startswith(MARKS)}
        found = shutil.which(self.command[0]) if self.command else None
        if found is not None:
            folder = os.path.dirname(os.path.abspath(found))  # noqa: PTH100, PTH120 -- links stay
            known["PATH"] = f"{folder}{os.pathsep}{known.get('PATH', '')}"
        return known


ALONE = Launch()  # one process


def _open(descriptor: int) -> bool:
    with suppress(OSError):
        os.fstat(descriptor)
        return True
    return False


def this_rank() -> Rank | None:
    """Return which rank this process is; None where no launcher started it as one of several.

    Raises:
        Usage: srun started several processes, and no MPI connects them.
    """
    for number, count in NUMBERED:
        if number in os.environ:
            most = _number(count)
            by = "srun" if "SLURM_STEP_ID" in os.environ else "mpirun"
            return Rank(_number(number), most, by) if most != 1 else None
    if (tasks := _number("SLURM_STEP_NUM_TASKS")) > 1:
        raise Usage(
            f"srun started {tasks} tasks without MPI, and each would be a run of its own: use srun "
            "--mpi=pmix or --mpi=pmi2 ('srun --mpi=list' tells which there are), or srun -n 1"
        )
    return None


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0


def launch_of(command: str | None) -> Launch:
    """Return how to start the engine: by a launcher's command, or as this process was started.

    Raises:
        Usage: there is no such launcher, or this process is one of several already.
    """
    rank = this_rank()
    if not command or not command.strip():
        return Launch(joins=rank is not None)
    if rank is not None:
        raise Usage(
            f"{rank.launcher} has started llmc as one of several already: leave out --launch and "
            f"{VARIABLE}, or start llmc alone"
        )
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Usage(f"--launch cannot be read ({error}): {command}") from error
    if shutil.which(words[0]) is None:
        raise Usage(
            f"--launch {words[0]}: there is no such program; give its path, or install MPICH: "
            + install_command("mpi")
        )
    return Launch(tuple(words))


def end_all(code: int) -> None:
    """End the other ranks, which wait for an engine of this one that will not come.

    MPICH's launchers do it when they are asked; the others where a process ends with a failure.
    They drop the output that they have not read by then, and with it the reason for the end.
    """
    descriptor = os.environ.get("PMI_FD", "")
    if not descriptor.isdecimal() or "MPI_LOCALNRANKS" not in os.environ:  # srun speaks otherwise
        return
    latest = time.monotonic() + ANSWER_SECONDS
    while any(map(_unread, (1, 2))) and time.monotonic() < latest:
        time.sleep(0.001)
    with suppress(OSError, ValueError):
        os.write(int(descriptor), b"cmd=abort exitcode=%d\n" % code)
        select.select([int(descriptor)], [], [], ANSWER_SECONDS)  # until it ends this one too


def _unread(descriptor: int) -> bool:
    """Whether there is output in a pipe that its reader has not read."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
            return bool(count)
    return False
