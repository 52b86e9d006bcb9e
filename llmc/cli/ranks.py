"""``mpirun -n N llmc train``: every rank runs this program, and only rank 0 goes on in Python.

The others become the engine, which gets all that it needs by messages from that of rank 0. They
touch no file but the compiled engine, and say nothing that rank 0 says too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from llmc.engine.launcher import end_all, this_rank
from llmc.errors import ExitCode, LlmcError, Usage

HELP = {"-h", "--help"}
# What keeps a rank from its engine is mostly what keeps rank 0 too, which says it and ends all.
AFTER_SECONDS = 2.0


def take_part(args: Sequence[str]) -> None:
    """Become the engine, on a rank above 0 of a training; does not return there.

    ``args`` are the command line's, with the global flags in front.

    Raises:
        Usage: srun started several processes, and no MPI connects them; of the first one alone.
        LlmcError: there is no engine.
    """
    if not _trains(args):
        return
    try:
        rank = this_rank()
    except Usage:
        if os.environ.get("SLURM_PROCID", "0") != "0":
            sys.exit(ExitCode.USAGE)
        raise
    if rank is None or rank.number == 0:
        return
    if HELP & set(args):
        sys.exit(ExitCode.OK)
    from llmc.engine.build import ensure_native

    try:
        binary = str(ensure_native())
    except LlmcError:
        time.sleep(AFTER_SECONDS)
        raise
    os.execv(binary, [binary, "train"])


def leave(args: Sequence[str], code: int) -> None:
    """End the other ranks of a training, where this one ends without having started its engine."""
    if code == ExitCode.OK or not _trains(args):
        return
    from llmc.engine.process import has_joined

    with suppress(Usage):
        rank = this_rank()
        if rank is not None and rank.number == 0 and not has_joined():
            end_all(code)


def _trains(args: Sequence[str]) -> bool:
    words = iter(args)
    for word in words:
        if word == "--workspace":
            next(words, None)
        elif not word.startswith("-"):
            return word == "train"
    return False
