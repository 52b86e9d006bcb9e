"""How a stage tells its caller what it does, without printing: notes and progress bars.

Stages take a :class:`Report`. The command line hands them its terminal; a caller of the Python API
hands them nothing, which is :data:`SILENT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

Unit = Literal["bytes", "tokens", "steps", "files"]


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, step: int, total: int | None = None) -> None:
        """Move the bar by ``step`` units; ``total`` is their number, once it is known.

        The step that brings the total does not count as speed: an interrupted download resumes
        there.
        """


class Report(Protocol):
    """What a stage reports to."""

    def note(self, message: str) -> None:
        """Take one sentence about what was chosen or done."""

    def bar(
        self, description: str, total: int | None = None, unit: Unit = "bytes"
    ) -> AbstractContextManager[Advance]:
        """Open a progress bar for ``total`` units; None if their number is not known yet."""


class Silent:
    """A report that nobody reads."""

    def note(self, message: str) -> None:
        """Drop the note."""

    @contextmanager
    def bar(
        self, description: str, total: int | None = None, unit: Unit = "bytes"
    ) -> Iterator[Advance]:
        """Yield an advance that shows nothing."""
        yield lambda step, total=None: None


SILENT: Report = Silent()
