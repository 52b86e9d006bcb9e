"""``llmc doctor``: print the checks of :mod:`llmc.check.doctor`."""

from __future__ import annotations

import sys
import textwrap
import time
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.check.doctor import CHECKS, Finding, State, examine
from llmc.cli.context import Context
from llmc.cli.options import option
from llmc.engine.launcher import launch_of
from llmc.engine.process import ERRORS
from llmc.errors import LlmcError

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {
    State.OK: ("ok", "green"),
    State.WARNING: ("warn", "bold yellow"),
    State.FAILED: ("FAIL", "bold red"),
    State.SKIPPED: ("skip", "dim"),
}
MARK_WIDTH = 6
NAME_WIDTH = max(map(len, CHECKS)) + 2


LaunchCommand = Annotated[
    str | None,
    option("Check the ranks that this command starts too, such as 'mpirun -n 4'.", "COMMAND"),
]


def doctor(context: typer.Context, launch: LaunchCommand = None) -> None:
    """Check this machine and this installation.

    The checks compile the engine if it is not there yet, train a tiny model on every instruction
    set of this CPU, and compare the results with numbers that PyTorch computed once. They need no
    network and no PyTorch. They take seconds, or less than a minute with the compilation. The exit
    code is that of the first check that failed.
    """
    from rich.console import Console

    ctx: Context = context.obj
    start = time.monotonic()
    console = Console(highlight=False)
    findings = {}
    how = launch_of(launch) if launch is not None else None
    for name, finding in examine(ctx.workspace, launch=how, report=ctx.ui):
        findings[name] = finding
        if not ctx.ui.json:
            # Not printed by rich itself, which would turn a closed pipe into a failure.
            sys.stdout.write(_shown(console, name, finding))
            sys.stdout.flush()
    seconds = time.monotonic() - start
    failed = [name for name, finding in findings.items() if finding.state is State.FAILED]
    ctx.ui.result(
        {
            "ok": not failed,
            "seconds": round(seconds, 3),
            "checks": [
                {"name": name, "state": it.state.value, "found": it.found, "advice": it.advice}
                for name, it in findings.items()
            ],
        }
    )
    if failed:
        raise ERRORS.get(findings[failed[0]].code, LlmcError)(
            f"{len(failed)} of {len(findings)} checks failed ({', '.join(failed)}): "
            "the report says what to do"
        )
    warned = sum(finding.state is State.WARNING for finding in findings.values())
    ctx.ui.note(f"{len(findings)} checks in {seconds:.1f} s: none failed, {warned} warned")
    ctx.ui.next("llmc prepare stdlib")


def _shown(console: Console, name: str, finding: Finding) -> str:
    """Return a finding as lines of text, wrapped on a terminal."""
    from rich.text import Text

    indent = " " * (MARK_WIDTH + NAME_WIDTH)
    width = console.width - len(indent) if console.is_terminal else 0
    lines = _wrapped(finding.found, width)
    mark, style = MARKS[finding.state]
    text = Text.assemble((f"{mark:<{MARK_WIDTH}}", style), f"{name:<{NAME_WIDTH}}{lines[0]}")
    for line in lines[1:]:
        text.append(f"\n{indent}{line}")
    for line in _wrapped(finding.advice, width):
        text.append(f"\n{indent}{line}", style="bold")
    with console.capture() as captured:
        console.print(text, soft_wrap=True)
    return captured.get()


def _wrapped(words: str, width: int) -> list[str]:
    """Return lines of at most ``width`` characters; one line where there is no room to wrap."""
    if width < 20 or not words:
        return [words] if words else []
    return textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False)
