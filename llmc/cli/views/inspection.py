"""Show a description on stdout: with rich in a terminal, as plain lines in a pipe."""

from __future__ import annotations

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
    if console.width > WIDEST:
        console = Console(file=out, highlight=False, width=WIDEST)
    _show(console, made)


def plain_lines(made: Description, indent: str = "") -> list[str]:
    """Return a description as lines: ``name: value``, and tables with aligned columns."""
    lines = [f"{indent}{safe_text(str(made.path), None)}: {made.title}"]
    lines += [
        f"{indent}  {_label(fact.name)}: {fact.shown}"
        for fact in made.facts
        if fact.shown is not None
    ]
    for table in made.tables:
        lines.append(f"{indent}  {table.name}:")
        lines += [f"{indent}    {line}" for line in _aligned(table)]
    lines += [f"{indent}  problem: {problem}" for problem in made.problems]
    for part in made.parts:
        lines += plain_lines(part, indent + "  ")
    return lines


def _label(name: str) -> str:
    return name.replace("_", " ")


def _aligned(table: Table) -> list[str]:
    """Return the rows as text; the last column is not padded."""
    heads = [column.lstrip(">").replace("_", " ") for column in table.columns]
    rows = [tuple(heads), *table.shown]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines + _left_out(table)


def _left_out(table: Table) -> list[str]:
    return [f"… and {table.left_out:,} more"] if table.left_out else []


def _show(console: Console, made: Description, depth: int = 0) -> None:
    from rich.padding import Padding
    from rich.text import Text

    def put(what: RenderableType) -> None:
        console.print(Padding(what, (0, 0, 0, 2 * depth)))

    if depth:
        console.print()
    title = Text(safe_text(str(made.path), None), style="bold")
    put(Text.assemble(title, ("  ", ""), (made.title, "cyan")))
    put(_facts(made))
    for table in made.tables:
        console.print()
        put(_table(table))
        for line in _left_out(table):
            put(Text(line, style="dim"))
    for problem in made.problems:
        put(Text.assemble(("✗ ", "bold red"), (problem, "red")))
    for part in made.parts:
        _show(console, part, depth + 1)
    if not depth and not made.all_problems():
        console.print(Text.assemble(("✓ ", "bold green"), ("nothing wrong was found", "green")))


def _facts(made: Description) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", width=LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    for fact in made.facts:
        if fact.shown is not None:
            grid.add_row(_label(fact.name), Text(fact.shown))
    return grid


def _table(table: Table) -> RenderableType:
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
    kept = [i for i, column in enumerate(table.columns) if not _nothing(column, table, i)]
    for column in (table.columns[i] for i in kept):
        name = column.lstrip(">")
        grid.add_column(
            name.replace("_", " "),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
            no_wrap=name not in PROSE,
        )
    for row in table.shown:
        grid.add_row(*(Text(row[i]) for i in kept))
    return grid


def _nothing(column: str, table: Table, index: int) -> bool:
    """Return whether a column of NaN or infinity counts has only zeros."""
    return column in RARE and all(row[index] == "0" for row in table.shown)
