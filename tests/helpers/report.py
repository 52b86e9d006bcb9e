"""A report that a test listens to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmc.report import Advance, Unit


class Listener:
    """Hands notes to ``note`` and every bar's steps to ``advance``; drops what has no listener."""

    def __init__(
        self,
        note: Callable[[str], object] | None = None,
        advance: Callable[[int, int | None], object] | None = None,
    ) -> None:
        self._note, self._advance = note, advance

    def note(self, message: str) -> None:
        """Hand on a note."""
        if self._note is not None:
            self._note(message)

    @contextmanager
    def bar(
        self, description: str, total: int | None = None, unit: Unit = "bytes"
    ) -> Iterator[Advance]:
        """Yield what hands on the steps."""
        del description, total, unit

        def advance(step: int, total: int | None = None) -> None:
            if self._advance is not None:
                self._advance(step, total)

        yield advance
