"""The standard streams, which a shell may have closed, and a stdout that may be full."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO


def discard(stream: TextIO) -> None:
    """Let a stream that cannot be written lose what it holds: Python flushes it at its end.

    The caller has reported the failure.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    if isinstance(raw := getattr(getattr(stream, "buffer", None), "raw", None), _Raw):
        raw.failure = None


def drop_unwritten_messages() -> None:
    """Drop what stderr holds and cannot be written: Python would fail at its end (exit code 120).

    Nobody can be told, and what the command did is not less done.
    """
    try:
        sys.stderr.flush()
    except OSError:
        with suppress(OSError, AttributeError):
            discard(sys.stderr)


def open_closed_streams() -> None:
    """Open what the shell closed (``>&-``), so that no file gets the number of a stream.

    Reading stdin then ends at once, stdout cannot be written, and stderr takes everything.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # which gets the lowest free number
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _number(stream: TextIO) -> int | None:
    with suppress(OSError):  # of a stream in memory
        return stream.fileno()
    return None


class _Raw(io.FileIO):
    """Stdout, which remembers why it could not be written."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            while (count := super().write(data)) is None:  # it does not block
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            raise
        return count


class Output:
    """Watches stdout while a command runs."""

    def __init__(self) -> None:
        """Put a stdout in place that remembers its failure, where stdout is the system's."""
        self._raw: _Raw | None = None
        self._failure: OSError | None = None
        if not isinstance(sys.stdout, io.TextIOWrapper):
            return
        # A terminal in Latin-1 cannot show a loss curve.
        sys.stdout.reconfigure(errors="replace")
        if _number(sys.stdout) == 1:
            sys.stdout.flush()
            self._raw = _Raw(1, "wb", closefd=False)
            sys.stdout = io.TextIOWrapper(
                io.BufferedWriter(self._raw),
                sys.stdout.encoding,
                "replace",
                line_buffering=self._raw.isatty(),
            )

    def failure(self) -> OSError | None:
        """Write what stdout still holds; return why it could not be written, or None.

        What a stdout holds that cannot be written is dropped.
        """
        try:
            sys.stdout.flush()
        except OSError as error:
            self._failure = error
        if self._raw is not None and self._raw.failure is not None:
            self._failure = self._raw.failure
        if self._failure is not None:
            with suppress(OSError, AttributeError):  # Typer may have put its own in place
                discard(sys.stdout)
        return self._failure
