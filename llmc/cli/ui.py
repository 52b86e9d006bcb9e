"""What the person sees: prose on stderr, data on stdout, rich where there is a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmc.report import Advance, Unit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Ui:
    """The voice of one command.

    Attributes:
        json: stdout carries JSON alone, an object a line; the last is the command's result.
        quiet: nothing but errors is said on stderr.
        typed: how the next command begins, to work in the same workspace.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, typed: str = "llmc") -> None:
        """Choose the voice; no output yet."""
        self.json = json
        self.quiet = quiet
        self.typed = typed
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """The console on stderr, made on first use: importing rich costs a tenth of a second."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        return self._console

    def note(self, message: str) -> None:
        """Say what was chosen or done, one line on stderr."""
        if not self.quiet:
            self.console.print(message, markup=False, emoji=False)

    def next(self, *commands: str) -> None:
        """End with the next commands to type."""
        if self.quiet:
            return
        from rich.text import Text

        for index, words in enumerate(commands):
            label = "next: " if index == 0 else "      "
            self.console.print(Text.assemble((label, "dim"), (self.spelled(words), "bold cyan")))

    def spelled(self, command: str) -> str:
        """Return a command as it is typed to work in the same workspace."""
        return command.replace("llmc ", f"{self.typed} ", 1)

    def error(self, message: str) -> None:
        """Say what went wrong; said even when quiet."""
        from rich.text import Text

        self.console.print(Text.assemble(("error: ", "bold red"), message))

    def result(self, fields: dict[str, Any]) -> None:
        """Print the command's result as one JSON object on stdout, when ``--json`` asks for it."""
        if self.json:
            sys.stdout.write(json.dumps(fields) + "\n")
            sys.stdout.flush()

    @contextmanager
    def bar(
        self, description: str, total: int | None = None, unit: Unit = "bytes"
    ) -> Iterator[Advance]:
        """Show a progress bar with its rate and the time that is left; nothing in a pipe.

        This makes :class:`Ui` a :class:`llmc.report.Report`.
        """
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        counts = (
            (DownloadColumn(), TransferSpeedColumn())
            if unit == "bytes"
            else (TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),)
        )
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *counts,
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        ) as progress:
            task = progress.add_task(description, total=total)

            def advance(step: int, total: int | None = None) -> None:
                if progress.tasks[0].total is None and total is not None:
                    progress.reset(task, total=total, completed=step)
                else:
                    progress.update(task, advance=step, total=total)

            yield advance

    def progress(self) -> Progress:
        """Return a progress display for bytes, with rate and ETA; invisible in a pipe."""
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        )
