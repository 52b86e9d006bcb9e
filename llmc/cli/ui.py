"""What a command prints: messages on stderr, data on stdout."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.addresses import all_without_secrets, without_secrets
from llmc.installation import program
from llmc.report import Advance, Unit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class Ui:
    """What one command prints; also the :class:`llmc.report.Report` of the stages that it calls.

    Attributes:
        json: stdout carries only JSON, one object a line; the last is the command's result.
        quiet: stderr carries only errors.
        workspace: the folder that ``--workspace`` named.
        typed: what a shell here types to run llmc in the same workspace.
    """

    workspace: Path | None = None

    def __init__(
        self, *, json: bool = False, quiet: bool = False, typed: str | None = None
    ) -> None:
        self.json = json
        self.quiet = quiet
        if typed is not None:
            self.typed = typed

    @cached_property
    def typed(self) -> str:
        """Found on first use because ``llmc --help`` would wait for it."""
        words = [] if self.workspace is None else ["--workspace", shlex.quote(str(self.workspace))]
        return " ".join([program(), *words])

    @cached_property
    def console(self) -> Console:
        """The console on stderr, made on first use because importing rich takes 0.1 s."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, soft_wrap=True)

    def print_above(self, picture: Console) -> None:
        """Print messages above the live picture of a console; it would draw itself over them."""
        if self.console.is_terminal:
            self.console = picture

    def _say(self, message: str | Text) -> None:
        # If stderr is full or gone, nobody can be told.
        with suppress(OSError):
            self.console.print(message, markup=False, emoji=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """Print a line on stderr: what was chosen or done."""
        if not self.quiet:
            self._say(without_secrets(self.as_typed(message)))

    def next(self, *commands: str) -> None:
        """Print the commands to type next."""
        if self.quiet:
            return
        from rich.text import Text

        for index, words in enumerate(commands):
            label = "next: " if index == 0 else "      "
            shown = without_secrets(self.spelled(words))
            self._say(Text.assemble((label, "dim"), (shown, "bold cyan")))

    def spelled(self, command: str) -> str:
        """Return the command ``llmc …`` as a shell here runs it in the same workspace."""
        return command.replace("llmc ", f"{self.typed} ", 1)

    def as_typed(self, message: str) -> str:
        """Return a message whose commands, ``'llmc …'``, are spelled as a shell here runs them."""
        return message.replace("'llmc ", f"'{self.typed} ")

    def error(self, message: str) -> None:
        """Print an error, even when quiet."""
        from rich.text import Text

        message = without_secrets(self.as_typed(message))
        self._say(Text.assemble(("error: ", "bold red"), message))

    def result(self, fields: dict[str, Any]) -> None:
        """Print the command's result as one JSON object on stdout, with ``--json`` only."""
        if self.json:
            sys.stdout.write(json.dumps(all_without_secrets(fields)) + "\n")
            sys.stdout.flush()

    @contextmanager
    def bar(
        self, description: str, total: int | None = None, unit: Unit = "bytes"
    ) -> Iterator[Advance]:
        """Show a progress bar with rate and remaining time; nothing in a pipe."""
        from rich import progress as parts

        counted = "{task.completed:,.0f}" + ("/{task.total:,.0f} " if total is not None else " ")
        counts = (
            (parts.DownloadColumn(), parts.TransferSpeedColumn())
            if unit == "bytes"
            else (parts.TextColumn(counted + unit),)
        )
        with parts.Progress(
            parts.TextColumn("{task.description}"),
            parts.BarColumn(),
            *counts,
            parts.TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        ) as progress:
            task = progress.add_task(without_secrets(description), total=total)

            def advance(step: int, total: int | None = None) -> None:
                if progress.tasks[0].total is None and total is not None:
                    progress.reset(task, total=total, completed=step)
                else:
                    progress.update(task, advance=step, total=total)

            yield advance
