"""A command run under a terminal, as a person sees it."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl

from tests.conftest import Llmc

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Makes the terminal on stdin the one whose Ctrl-C reaches the program.
OWN_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])\n"
)
PATIENCE = 60  # seconds until a test that waits for words gives up


def _open(llmc: Llmc, columns: int, lines: int) -> tuple[int, int, dict[str, str]]:
    """Return both ends of a terminal of that size, and an environment that fits it."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
    env = {name: value for name, value in llmc.env().items() if name not in ("COLUMNS", "LINES")}
    # Nobody answers when the program asks where the cursor is.
    fitting = {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "PROMPT_TOOLKIT_NO_CPR": "1"}
    return leader, follower, {**env, **fitting, **llmc.environment}


class Typist:
    """Types into a program under a terminal and waits for what it shows.

    Attributes:
        shown: all that it wrote so far, without colours and movements of the cursor.
        raw: the same with them.
        code: the exit code, None while it runs.
    """

    def __init__(self, leader: int) -> None:
        self.shown = ""
        self.code: int | None = None
        self._leader = leader
        self.raw = ""
        self._read = b""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def wait(self, words: str) -> str:
        """Wait until words are shown after those of the last time; return what is between."""
        limit = time.monotonic() + PATIENCE
        while words not in self.shown[self._seen :]:
            assert time.monotonic() < limit, (words, self.shown)
            assert self.read(), (words, self.shown)
        at = self.shown.index(words, self._seen)
        between, self._seen = self.shown[self._seen : at], at + len(words)
        return between

    def read(self) -> bool:
        """Read what is there; return False when nothing more comes."""
        if select.select([self._leader], [], [], 1)[0]:
            try:
                chunk = os.read(self._leader, 1 << 16)
            except OSError:  # Linux says so where others say nothing more comes
                return False
            self._read += chunk
            self.raw = self._read.decode(errors="replace")
            self.shown = ESCAPES.sub("", self.raw).replace("\r\n", "\n")
            return bool(chunk)
        return True


class Screen:
    """As much of a terminal as a live picture needs: lines that break, a cursor that goes up.

    What has scrolled away is kept, and no line is ever the last.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0

    def shown(self, written: str) -> list[str]:
        """Return the lines that are there after all that was written."""
        for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", written, re.DOTALL):
            if piece == "\n":
                self._down()
            elif piece == "\r":
                self.column = 0
            elif piece[0] != "\x1b":
                self._put(piece)
            elif piece[-1] == "A":
                self.row = max(self.row - int(piece[2:-1] or 1), 0)
            elif piece[-1] == "K":
                self.lines[self.row] = []
        return ["".join(line) for line in self.lines]

    def _put(self, character: str) -> None:
        if self.column == self.columns:  # only now: a full line alone does not break
            self.column = 0
            self._down()
        line = self.lines[self.row]
        line += " " * (self.column + 1 - len(line))
        line[self.column] = character
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])


def _own_terminal(
    llmc: Llmc, columns: int, *args: str, wrapper: tuple[str, ...] = ()
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command under a terminal whose Ctrl-C and hang-up reach it; return both."""
    leader, follower, env = _open(llmc, columns, 24)
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *wrapper, *llmc.command, *args],
        cwd=llmc.workspace,
        env=env,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    return process, leader


@contextmanager
def typing(llmc: Llmc, columns: int, *args: str) -> Iterator[Typist]:
    """Run a command under a terminal of its own for a block, which types; then it has to end."""
    process, leader = _own_terminal(llmc, columns, *args)
    with process:
        typist = Typist(leader)
        try:
            yield typist
            limit = time.monotonic() + PATIENCE
            while typist.read() and process.poll() is None:
                assert time.monotonic() < limit, typist.shown
            typist.code = process.wait(PATIENCE)
        finally:
            process.kill()
            os.close(leader)


def in_terminal(llmc: Llmc, columns: int, *args: str, lines: int = 40) -> str:
    """Run a command under a terminal of that size; return all that it wrote there."""
    leader, follower, env = _open(llmc, columns, lines)
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


def close_after(llmc: Llmc, words: str, *args: str, wrapper: tuple[str, ...] = ()) -> None:
    """Run a command under a terminal that closes when it shows the words; wait for its end.

    With a ``wrapper`` that is what runs there, and the command is its arguments.
    """
    process, leader = _own_terminal(llmc, 80, *args, wrapper=wrapper)
    with process:
        try:
            Typist(leader).wait(words)
        finally:
            os.close(leader)
        process.wait(timeout=PATIENCE)
