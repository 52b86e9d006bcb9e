"""Run ``llmc`` in the tests' own process: the same streams, files and exit codes, no new Python."""

from __future__ import annotations

import functools
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from llmc.cli import main as program
from llmc.engine import toolchain
from llmc.engine.toolchain import Compiler, Mode
from llmc.paths import shipped_dir

# What a process finds out once, and a hundred commands in one process a hundred times.
_key_of_any = toolchain.build_key
_key_of_shipped = functools.cache(_key_of_any)


def _build_key(
    compiler: Compiler, native: Path, mode: Mode = Mode.RELEASE, *, tests: bool = False
) -> str:
    """Return the name of a build; that of llmc's own sources, which no test changes, is kept."""
    named = _key_of_shipped if native == shipped_dir("native") else _key_of_any
    return named(compiler, native, mode, tests=tests)


_kept_command = functools.cache(program.load_command)

# Python and the libraries read these variables once, when they start.
READ_ONCE = ("PYTHON", "HF_", "TMPDIR")


def needs_process(args: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether a command needs a process of its own.

    That is so if its environment changes how Python starts, or if it keeps its stdin as a file
    until Python ends.
    """
    return any(name.startswith(READ_ONCE) for name in env) or (
        "-" in args and not {"tokenize", "prepare", "eval"}.isdisjoint(args)
    )


def run_in_process(
    args: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: bytes
) -> subprocess.CompletedProcess[bytes]:
    """Run ``llmc`` with these arguments; stdout and stderr come back as bytes."""
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        pytest.MonkeyPatch.context() as patch,
    ):
        given.write(stdin)
        given.seek(0)
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["llmc", *args])
        patch.setattr(toolchain, "build_key", _build_key)
        patch.setattr(program, "load_command", _kept_command)
        with _environment(env), _redirected(given, out, err):
            try:
                program.main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["llmc", *args], code, out.read(), err.read())


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment; what the command changes in it (``--offline`` does) is undone."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(env)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _redirected(*files: IO[bytes]) -> Iterator[None]:
    """Let stdin, stdout and stderr be these files: for Python, and for the processes it starts."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    kept = [os.dup(number) for number in range(3)]
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = _writer(1, line_buffering=False)
        sys.stderr = _writer(2, line_buffering=True)
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)


def _writer(number: int, *, line_buffering: bool) -> io.TextIOWrapper:
    raw = open(number, "wb", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=line_buffering)
