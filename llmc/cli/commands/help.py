"""``llmc help``: show the help of llmc or of one command."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def help(
    ctx: typer.Context,
    *,
    command: Annotated[
        str | None, typer.Argument(metavar="COMMAND", help="Command to show the help of.")
    ] = None,
) -> None:
    """Show the help of llmc or of one command."""
    root = ctx.find_root()
    if command is None:
        print(root.get_help())
        return
    group: Any = root.command
    _, found, _ = group.resolve_command(root, [command])
    print(found.get_help(found.make_context(command, [], parent=root, resilient_parsing=True)))
