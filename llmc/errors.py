"""The errors that llmc raises, each with its exit code.

An error says what happened, to which file, and what to do next. ``cli.main`` is the one place where
an :class:`LlmcError` becomes an exit code.
"""

from __future__ import annotations

from enum import IntEnum

from llmc.addresses import without_secrets

BUG = "this is a bug in llmc, please report it"


class ExitCode(IntEnum):
    """Exit codes; ``native/base/util.h`` has all but COMPILE, which the engine has no use for."""

    OK = 0
    BAD_DATA = 1
    USAGE = 2
    MISSING = 3
    COMPILE = 4
    NOT_FINITE = 5
    INTERNAL = 70
    INTERRUPTED = 130
    KILLED = 137


class LlmcError(Exception):
    """An error with a message for the person at the terminal and an exit code for scripts."""

    exit_code = ExitCode.INTERNAL
    commands: tuple[str, ...] = ()  # the commands that continue the work, as they are typed

    def __init__(self, message: str = "") -> None:
        """Fail with a message; addresses in it lose their secrets."""
        super().__init__(without_secrets(message))

    def __init_subclass__(cls, *, exit_code: ExitCode | None = None) -> None:
        if exit_code is not None:
            cls.exit_code = exit_code


class BadData(LlmcError, exit_code=ExitCode.BAD_DATA):
    """A file, a download or a disk is not as it should be."""


class Usage(LlmcError, exit_code=ExitCode.USAGE):
    """A flag, a name or a combination of them is wrong."""


class MissingOutput(LlmcError, exit_code=ExitCode.MISSING):
    """An earlier stage has not run; the message names its command."""


class CompileFailed(LlmcError, exit_code=ExitCode.COMPILE):
    """The C compiler failed, or there is none."""


class LossNotFinite(LlmcError, exit_code=ExitCode.NOT_FINITE):
    """Training produced a NaN or an infinity."""


class Killed(LlmcError, exit_code=ExitCode.KILLED):
    """The system ended the engine with SIGKILL, most likely because memory ran out."""


class Interrupted(LlmcError, exit_code=ExitCode.INTERRUPTED):
    """Ctrl-C was pressed; what was done so far is saved."""

    def __init__(self, message: str, *commands: str) -> None:
        super().__init__(message)
        self.commands = commands
