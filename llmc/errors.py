"""Every failure a person can meet, as an exception that carries its exit code.

An error says what happened, to which file, and what to do next. ``cli.main`` is the one place where
an :class:`LlmcError` becomes an exit code.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes; the same enum stands in ``native/base/util.h``."""

    OK = 0
    BAD_DATA = 1
    USAGE = 2
    MISSING = 3
    COMPILE = 4
    NOT_FINITE = 5
    INTERNAL = 70
    INTERRUPTED = 130


class LlmcError(Exception):
    """A failure with a message for the person at the terminal and an exit code for their script.

    Attributes:
        commands: what to type next, if a command continues the work.
    """

    exit_code = ExitCode.INTERNAL
    commands: tuple[str, ...] = ()


class BadData(LlmcError):
    """A file, a download or a disk is not what it has to be."""

    exit_code = ExitCode.BAD_DATA


class Usage(LlmcError):
    """A flag, a name or a combination of them makes no sense."""

    exit_code = ExitCode.USAGE


class MissingOutput(LlmcError):
    """An earlier stage has not run; the message names the command that makes what is missing."""

    exit_code = ExitCode.MISSING


class CompileFailed(LlmcError):
    """The C compiler refused, or there is none."""

    exit_code = ExitCode.COMPILE


class LossNotFinite(LlmcError):
    """Training produced a NaN or an infinity."""

    exit_code = ExitCode.NOT_FINITE


class Interrupted(LlmcError):
    """The person pressed Ctrl-C; what was done so far is saved."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str, *commands: str) -> None:
        """Say what is saved, and what to type next, if anything."""
        super().__init__(message)
        self.commands = commands
