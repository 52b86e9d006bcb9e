"""Show a description on stdout: with rich in a terminal, as plain lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from llmc.check.inspect.description import Description, Table, safe_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LABEL = 20  # columns for the names of facts
WIDEST = 120
RARE = (">NaN", ">inf")
PROSE = {"text", "value", "name", "key", "file", "shape"}  # columns that may be folded


def show(made: Description, out: TextIO) -> None:
    """Write a description: with rich in a terminal, as plain lines in a pipe."""
    if not out.isatty():
        out.write("".join(f"{line}\n" for line in plain_lines(made)))
        out.flush()
        return
    from rich.console import Console

    console = Console(file=out, highlight=False)
    console.width = min(console.width, WIDEST)
    _show(console, made)


def plain_lines(made: Description, indent: str = "") -> Iterator[str]:
    """Yield a description as lines: ``name: value``, and tables with aligned columns."""
    yield f"{indent}{safe_text(str(made.path), None)}: {made.title}"
    for label, shown in _facts(made):
        yield f"{indent}  {label}: {shown}"
    for table in made.tables:
        yield f"{indent}  {table.name}:"
        yield from (f"{indent}    {line}" for line in _aligned(table))
    yield from (f"{indent}  problem: {problem}" for problem in made.problems)
    for part in made.parts:
        yield from plain_lines(part, indent + "  ")


def _facts(made: Description) -> list[tuple[str, str]]:
    return [(f.name.replace("_", " "), f.shown) for f in made.facts if f.shown is not None]


def _head(column: str) -> str:
    return column.lstrip(">").replace("_", " ")


def _aligned(table: Table) -> Iterator[str]:
    """Yield the rows as text; the last column is not padded."""
    rows = [[_head(column) for column in table.columns], *table.shown]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:{'>' if column.startswith('>') else '<'}{width}}"
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        yield "  ".join(cells).rstrip()
    if table.left_out:
        yield _left_out(table)


def _left_out(table: Table) -> str:
    return f"… and {table.left_out:,} more"


def _show(console: Console, made: Description, depth: int = 0) -> None:
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    def put(what: RenderableType) -> None:
        console.print(Padding(what, (0, 0, 0, 2 * depth)))

    if depth:
        console.print()
    title = Text(safe_text(str(made.path), None), style="bold")
    put(Text.assemble(title, ("  ", ""), (made.title, "cyan")))
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", width=LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, shown in _facts(made):
        grid.add_row(label, Text(shown))
    put(grid)
    for table in made.tables:
        console.print()
        put(_table(table))
        if table.left_out:
            put(Text(_left_out(table), style="dim"))
    for problem in made.problems:
        put(Text.assemble(("✗ ", "bold red"), (problem, "red")))
    for part in made.parts:
        _show(console, part, depth + 1)
    if not depth and not made.all_problems():
        console.print(Text.assemble(("✓ ", "bold green"), ("nothing wrong was found", "green")))


def _table(table: Table) -> RenderableType:
    """Return a table without the counts of NaN or infinity where all are zero."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(
        title=table.name,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
        header_style="dim",
    )
    kept = []
    for i, column in enumerate(table.columns):
        if column in RARE and all(row[i] == "0" for row in table.shown):
            continue
        kept.append(i)
        grid.add_column(
            _head(column),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
            no_wrap=column.lstrip(">") not in PROSE,
        )
    for row in table.shown:
        grid.add_row(*(Text(row[i]) for i in kept))
    return grid
