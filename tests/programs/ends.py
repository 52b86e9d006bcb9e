"""More ends of a run, for ``make torture MODE=…``: each ends by resuming and comparing the bytes.

``signals``
    ``llmc train`` and its engine, both or one of them, get some signals at random instants.
``hangups``
    the terminal that ``llmc train`` works in closes at a random instant.
``faults``
    one system call of the engine fails, or a few in a row (``strace -e inject``).
``disks``
    the disk is too small for the run: a tmpfs where mounting is allowed, else a limit of the size
    of files. It grows while the run waits, or after the run was ended.
``ranks``
    a random one of several ranks is killed: :mod:`tests.programs.torn_ranks`.

Trial ``i`` of a seed always does the same: ``--seed S --first i --count 1`` repeats it.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from tests.helpers.engine import Native
from tests.programs.engine_ends import disks, faults
from tests.programs.line_ends import hangups, signals
from tests.programs.torn_ranks import TornRanks

MODES = ("signals", "hangups", "faults", "disks", "ranks")


def run_mode(
    mode: str, native: Native, cache: Path, *, count: int, seed: int, first: int = 0
) -> Counter[str]:
    """Run ``count`` trials of a mode from number ``first`` on; return how often what happened.

    Raises:
        AssertionError: one ended otherwise; what is printed repeats it.
    """
    if mode == "faults" and shutil.which("strace") is None:
        raise SystemExit("faults need strace, which is not installed")
    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        if mode in ("signals", "hangups"):
            trial = (signals if mode == "signals" else hangups)(Path(name), cache)
        elif mode == "ranks":
            trial = TornRanks(native, Path(name)).trial
        else:
            trial = (faults if mode == "faults" else disks)(native, Path(name))
        for number in range(first, first + count):
            try:
                happened[trial(random.Random(f"{mode} {seed} {number}"))] += 1
            except BaseException:
                repeat = f"--mode {mode} --seed {seed} --first {number} --count 1"
                print(f"to repeat it: python -m tests.programs.torture {repeat}", flush=True)
                raise
    return happened
