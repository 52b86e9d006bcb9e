"""A rank that ends alone asks MPICH's launcher to end the others, after its reason was read.

The launcher drops what it has not read by then.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys

import pytest

from tests.helpers.engine import Native, environment

PYTHON = """
import os
from llmc.engine.launcher import end_all
os.write(2, b"error: ...")
end_all(2)
"""


@pytest.mark.parametrize("program", ["llmc", "engine"])
def test_the_reason_is_read_before_the_others_are_ended(program: str, native: Native) -> None:
    engine = native.argv("ranks")  # it finds no library
    ours, theirs = socket.socketpair()
    with ours, theirs:
        env = environment() | {
            "MPI_LOCALNRANKS": "2",
            "PMI_FD": str(theirs.fileno()),
            "PMI_SIZE": "2",
            "PMI_RANK": "0",
            "LLMC_MPI": "none.so",
        }
        with subprocess.Popen(
            [sys.executable, "-c", PYTHON] if program == "llmc" else engine,
            stderr=subprocess.PIPE,
            env=env,
            pass_fds=(theirs.fileno(),),
        ) as rank:
            assert rank.stderr is not None
            assert select.select([rank.stderr], [], [], 30)[0]
            assert not select.select([ours], [], [], 0.5)[0]  # as the reason is unread
            assert os.read(rank.stderr.fileno(), 1000).startswith(b"error: ")
            assert select.select([ours], [], [], 30)[0]
            assert ours.recv(100) == b"cmd=abort exitcode=2\n"
            ours.sendall(b"\n")
            rank.communicate(timeout=30)
