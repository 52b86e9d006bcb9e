"""Help pages: usage, summary, examples, then options by group.

Typer's own pages either need rich, which takes longer to import than all of llmc's command line,
or list all options in one flat table.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from llmc.cli.catalogue import COMMANDS, START

Row = tuple[str, str]
WIDEST = 120  # columns; longer lines are hard to read
GLOBAL = "Global options"  # the group that every command shows last
METAVARS = {int: "N", float: "X", str: "TEXT"}


class Page:
    """Text for a terminal of a given width, with or without colour."""

    def __init__(self, width: int, *, colour: bool) -> None:
        self.width = width
        self.colour = colour
        self.lines: list[str] = []

    def style(self, text: str, **how: Any) -> str:
        """Return ``text`` in bold or in a colour, where the page has any."""
        return typer.style(text, **how) if self.colour else text

    def paragraph(self, text: str) -> None:
        """Add a paragraph, after an empty line."""
        self.lines += ["", *textwrap.wrap(text, min(self.width, 100), break_on_hyphens=False)]

    def tables(self, tables: Mapping[str, Sequence[Row]], widest: int = 32) -> None:
        """Add headings, each with rows of two columns that are aligned throughout.

        A left cell of more than ``widest`` columns has a line of its own.
        """
        lengths = [len(left) for rows in tables.values() for left, _ in rows]
        column = max((n for n in lengths if n <= min(widest, self.width // 2)), default=20) + 4
        for heading, rows in tables.items():
            self.lines += ["", self.style(f"{heading}:", bold=True)] if rows else []
            for left, right in rows:
                wrapped = textwrap.wrap(right, self.width - column, break_on_hyphens=False)
                cell = "  " + self.style(left, fg="cyan")
                if len(left) + 4 <= column and wrapped:
                    cell += " " * (column - len(left) - 2) + wrapped.pop(0)
                self.lines += [cell, *(" " * column + line for line in wrapped)]

    def text(self) -> str:
        """Return the page."""
        return "\n".join(self.lines) + "\n"


def new_page() -> Page:
    """Return an empty page for this terminal; no colour in a pipe or with ``NO_COLOR``."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    width = min(max(shutil.get_terminal_size().columns, 60), WIDEST)
    return Page(width, colour=sys.stdout.isatty() and not plain)


def command_page(command: Any, ctx: Any) -> str:
    """Return the help page of one command."""
    page = new_page()
    about = COMMANDS.get(command.name)
    params = command.get_params(ctx)
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name == "option" and not param.hidden]
    words = [ctx.command_path, "[OPTIONS]", *map(_argument_in_usage, arguments)]
    page.lines.append(f"Usage: {' '.join(words)}")
    summary, *rest = inspect.cleandoc(command.help or "").split("\n\n")
    page.paragraph(about.summary if about else " ".join(summary.split()))
    if about:
        page.tables({"Examples": about.examples}, widest=60)
    for text in rest:
        page.paragraph(" ".join(text.split()))
    tables = {"Arguments": [(_metavar(param, ctx), param.help or "") for param in arguments]}
    for group in _groups(options):
        tables[group] = [_row(param, ctx) for param in options if _group(param) == group]
    page.tables(tables)
    if about:
        page.lines += ["", f"Documentation: docs/{about.page}"]
    return page.text()


def main_page(group: Any, ctx: Any) -> str:
    """Return the page of ``llmc --help``; it loads no command."""
    page = new_page()
    page.lines.append("Usage: llmc [OPTIONS] COMMAND [ARGS]...")
    page.paragraph(group.help)
    page.tables({"Start here": START}, widest=60)
    tables: dict[str, list[Row]] = {}
    for name, about in COMMANDS.items():
        tables.setdefault(about.group, []).append((name, about.summary))
    page.tables(tables)
    page.tables({"Options": [_row(p, ctx) for p in group.get_params(ctx) if not p.hidden]})
    page.lines += ["", "Options of a command: llmc COMMAND --help", "Documentation: docs/index.md"]
    return page.text()


def _groups(options: Sequence[Any]) -> list[str]:
    """Return the headings of a command's options in their order, the global ones last."""
    headings = dict.fromkeys(map(_group, options))
    return sorted(headings, key=lambda heading: heading == GLOBAL)


def _group(option: Any) -> str:
    """Return the heading of an option."""
    if option.name == "help":
        return GLOBAL
    return getattr(option, "rich_help_panel", None) or "Options"


def _argument_in_usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    shown = name if argument.nargs == 1 or name.endswith("...") else f"{name}..."
    return shown if argument.required else f"[{shown}]"


def _row(option: Any, ctx: Any) -> Row:
    """Return an option's flags with its metavar, and its help with default and variable."""
    flags = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        flags += f" / {', '.join(option.secondary_opts)}"
    if not option.is_flag and not option.count:
        flags += f" {_metavar(option, ctx)}"
    sentence = option.help or ""
    default = option.default
    if default in (None, False, "", ()) or option.multiple or option.name == "help":
        default = None
    notes = []
    mentioned = "efault" in sentence or f"({default})" in sentence
    if default is not None and not option.is_flag and not mentioned:
        notes.append(f"default: {default}")
    if option.envvar and option.show_envvar:
        notes.append(f"environment: {option.envvar}")
    if option.required:
        notes.append("required")
    return flags, " ".join([sentence, *([f"[{', '.join(notes)}]"] if notes else [])])


def _metavar(param: Any, ctx: Any) -> str:
    """Return what stands for a parameter's value."""
    if param.metavar:
        return str(param.metavar)
    if param.param_type_name == "argument":
        return str(param.name.upper())
    kind = param.type_descriptor
    if kind.is_choice:
        return str(param.display_type(ctx)).strip("<>")
    if kind.is_path:
        return "FILE" if "file" in param.name or param.name in ("model", "out") else "PATH"
    return METAVARS.get(kind.annotation, "VALUE")
