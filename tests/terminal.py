"""A command run under a terminal, as a person sees it."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import termios
from fcntl import ioctl

from conftest import Llmc


def in_terminal(llmc: Llmc, columns: int, *args: str, lines: int = 40) -> str:
    """Run a command under a terminal of that size; return all that it wrote there."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
    env = {name: value for name, value in llmc.env().items() if name not in ("COLUMNS", "LINES")}
    env |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [*llmc.command, *args],
        cwd=llmc.workspace,
        env=env,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    ) as process:
        os.close(follower)
        written = b""
        while process.poll() is None or select.select([leader], [], [], 0)[0]:
            if select.select([leader], [], [], 0.2)[0]:
                try:
                    written += os.read(leader, 1 << 16)
                except OSError:  # Linux says so where others say nothing more comes
                    break
    os.close(leader)
    assert process.returncode == 0, written
    return written.decode(errors="replace")
