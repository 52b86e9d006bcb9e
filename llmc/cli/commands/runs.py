"""``llmc runs``: a table of the workspace's training runs."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from llmc.cli.context import Context
from llmc.cli.options import flag, option
from llmc.terminal import printable
from llmc.train.history import RunHistory, all_runs
from llmc.units import clock, finite, short

if TYPE_CHECKING:
    from rich.table import Table

Sort = Literal["when", "name", "size", "steps", "loss", "val", "tokens", "time", "speed"]
SortOption = Annotated[
    Sort,
    option(
        "Sort by when (newest first), name, size (largest model first), steps, loss, val "
        "(lowest first), tokens, time or speed (highest first) (when).",
        "KEY",
        show_default=False,
    ),
]


def runs(
    context: typer.Context,
    *,
    sort: SortOption = "when",
    reverse: Annotated[bool, flag("--reverse", "Reverse the order.")] = False,
) -> None:
    """List the training runs: progress, speed and loss.

    The training loss is the mean of the last steps: a twentieth of all, at most 100. Time is the
    training time, without validation and samples; tokens/s are the tokens over that time. A narrow
    terminal shows fewer columns; a pipe gets all, separated by tabs. A run with damaged files is
    listed with what is wrong.
    """
    ctx: Context = context.obj
    found = ordered(all_runs(ctx.workspace), sort)
    if reverse:
        found.reverse()
    if ctx.ui.json:
        ctx.ui.result({"runs": [as_fields(run) for run in found]})
    elif found and sys.stdout.isatty():
        print_table(found)
    else:
        write_lines(found)
    if not found:
        ctx.ui.note(f"no run in {ctx.workspace.shown(ctx.workspace.runs)}")
        ctx.ui.next("llmc train" if ctx.workspace.datasets() else "llmc prepare stdlib")
        return
    newest = max(found, key=lambda run: run.recency if run.steps else 0)
    if newest.steps:
        ctx.ui.next(shlex.join(["llmc", "plot", newest.name]))


# What a number sorts by, and -1 for the highest first.
SORTS: dict[Sort, tuple[Callable[[RunHistory], float | None], int]] = {
    "when": (lambda run: run.recency or None, -1),
    "size": (lambda run: run.parameters, -1),
    "steps": (lambda run: run.done, -1),
    "loss": (lambda run: run.recent_loss, 1),
    "val": (lambda run: run.best_val[1] if run.best_val else None, 1),
    "tokens": (lambda run: run.tokens, -1),
    "time": (lambda run: run.seconds, -1),
    "speed": (lambda run: run.tokens_per_second, -1),
}


def ordered(found: list[RunHistory], sort: Sort) -> list[RunHistory]:
    """Return the runs sorted by ``sort``; those without the number come last."""
    if sort == "name":
        return sorted(found, key=lambda run: run.name)
    number, sign = SORTS[sort]

    def key(run: RunHistory) -> tuple[bool, float, str]:
        value = number(run)
        if value is None or math.isnan(value):
            return True, 0.0, run.name
        return False, sign * value, run.name

    return sorted(found, key=key)


def as_fields(run: RunHistory) -> dict[str, Any]:
    """Return a run's numbers, for ``--json``; null where one is not known."""
    best = run.best_val or (None, None)
    updated = datetime.fromtimestamp(run.updated, UTC).isoformat(timespec="seconds")
    return {
        "run": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "problems": run.problems,
        "updated": updated if run.updated else None,
        "dataset": run.dataset,
        "parameters": run.parameters,
        "steps": run.done,
        "planned_steps": run.planned,
        "saved_step": run.saved_step,
        "offered_step": run.offered_step,
        "ended": run.end["reason"] if run.end is not None else None,
        "skipped_updates": len(run.skipped),
        "train_loss": finite(run.train_loss),
        "recent_train_loss": finite(run.recent_loss),
        "recent_steps": run.recent if run.steps else 0,
        "val_loss": finite(run.val_loss),
        "best_val_loss": best[1],
        "best_val_step": best[0],
        "tokens": run.tokens,
        "seconds": run.seconds,
        "tokens_per_second": run.tokens_per_second,
        "val_error": run.val_errors.get(run.val[-1][0]) if run.val else None,
        "best_val_error": run.val_errors.get(run.best_val[0]) if run.best_val else None,
    }


def write_lines(found: list[RunHistory]) -> None:
    """Print a line of names and a line per run, separated by tabs, with all digits."""
    rows = [as_fields(run) for run in found]
    names = [name for name in as_fields(RunHistory(name="", folder=Path())) if name != "folder"]
    lines = [names] + [[_cell(row[name]) for name in names] for row in rows]
    sys.stdout.write("".join("\t".join(line) + "\n" for line in lines))


def _cell(value: object) -> str:
    if isinstance(value, list):
        return printable("; ".join(value))
    return "" if value is None else printable(str(value))


def progress(run: RunHistory) -> str:
    """Return the steps made, and the planned ones if there are more."""
    planned = run.planned
    if planned is None or run.done == planned:
        return f"{run.done:,}"
    return f"{run.done:,}/{planned:,}"


def ago(moment: float, now: float) -> str:
    """Return how long ago something was: ``now``, ``5 min``, ``3 h``, ``2 d``, a date."""
    passed = now - moment
    if not moment:
        return "–"
    if passed < 60:
        return "now"
    for most, seconds, unit in ((3600, 60, "min"), (86400, 3600, "h"), (14 * 86400, 86400, "d")):
        if passed < most:
            return f"{passed // seconds:.0f} {unit}"
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d")


def _best(run: RunHistory) -> str:
    """Return the lowest validation loss, with its standard error where that is known."""
    if run.best_val is None:
        return _loss(None)
    error = run.val_errors.get(run.best_val[0])
    return _loss(run.best_val[1]) + (f" ±{error:.2g}" if error is not None else "")


def _loss(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.1e}"


class Column(NamedTuple):
    """A column of the table."""

    title: str  # the heading
    text: Callable[[RunHistory], str]  # returns a run's cell
    rank: int = 0  # columns of the highest rank are the first that a narrow terminal leaves out
    right: bool = True  # right-aligned, as numbers are

    def width(self, found: list[RunHistory], width: int) -> int:
        """Return the width; a name takes at most a fifth of ``width``."""
        from rich.cells import cell_len

        widest = max(len(self.title), *(cell_len(self.text(run)) for run in found))
        return min(widest, width // 5) if self.title in ("run", "data") else widest


GAP = 2
STYLES = {
    "running": "cyan",
    "interrupted": "yellow",
    "never saved": "yellow",
    "not finite": "red",
    "broken": "red",
}
COLUMNS = (
    Column("run", lambda run: printable(run.name), right=False),
    Column("when", lambda run: ago(run.updated, time.time()), rank=4),
    Column("model", lambda run: short(run.parameters), rank=3),
    Column("data", lambda run: printable(run.dataset or "–"), rank=8, right=False),
    Column("steps", progress),
    Column("loss", lambda run: _loss(run.recent_loss)),
    Column("best val", _best),
    Column("last val", lambda run: _loss(run.val_loss), rank=5),
    Column("tokens", lambda run: short(run.tokens), rank=6),
    Column("time", lambda run: clock(run.seconds) if run.steps else "–", rank=2),
    Column("tok/s", lambda run: short(run.tokens_per_second), rank=7),
    Column("state", lambda run: run.state, rank=1, right=False),
)


def print_table(found: list[RunHistory]) -> None:
    """Print the table that fits the terminal, then the problems of each run."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    columns = fitting(found, console.width)
    console.print(table(found, columns, console.width))
    for run in found:
        for problem in run.problems:
            name = printable(run.name)
            console.print(Text.assemble((f"{name}: ", "bold red"), printable(problem)))
    missing = [column.title for column in COLUMNS if column not in columns]
    if missing:
        console.print(Text(f"not shown, too narrow: {', '.join(missing)}", style="dim"))


def fitting(found: list[RunHistory], width: int) -> list[Column]:
    """Return the columns that fit into ``width`` characters, the most important ones."""
    columns = list(COLUMNS)
    while (
        sum(column.width(found, width) for column in columns) + GAP * (len(columns) - 1) > width
        and (worst := max(columns, key=lambda column: column.rank)).rank
    ):
        columns.remove(worst)
    return columns


def table(found: list[RunHistory], columns: list[Column], width: int) -> Table:
    """Return the table; a name longer than a fifth of ``width`` is cut."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in columns:
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=column.width(found, width),
        )
    for run in found:
        cells = [Text(column.text(run)) for column in columns]
        cells[-1].stylize(STYLES.get(run.state, ""))
        drawn.add_row(*cells)
    return drawn
