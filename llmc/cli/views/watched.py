"""The view of a training run, which may lose its terminal or its reader."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from llmc.cli.streams import discard
from llmc.cli.views.training import PlainView
from llmc.train.metrics import Event, Progress


class Watched:
    """A view whose stream may go away: a terminal that closes does not end the training.

    Attributes:
        has_chart: the losses stand on the screen as a chart.
    """

    def __init__(self, view: PlainView) -> None:
        """Show what ``view`` shows, as long as it can be written."""
        self._view = view
        self._gone = False

    def __enter__(self) -> Watched:
        """Start the view."""
        self._view.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """End the view."""
        if not self._gone:
            self._try(lambda: self._view.__exit__(*error))

    @property
    def has_chart(self) -> bool:
        """Whether the losses stand on the screen as a chart."""
        return self._view.has_chart and not self._gone

    def update(self, event: Event, progress: Progress) -> None:
        """Show an event."""
        if not self._gone:
            self._try(lambda: self._view.update(event, progress))

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except OSError as error:
            self._gone = True
            discard(sys.stdout)
            with contextlib.suppress(OSError):
                reason = f"cannot write to stdout: {error.strerror}"
                print(f"{reason}; training goes on, metrics.jsonl has its numbers", file=sys.stderr)
