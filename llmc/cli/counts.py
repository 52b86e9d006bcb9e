"""Whole numbers on the command line: ``250000``, ``65k``, ``1e6``, ``10M``, ``4G``."""

from __future__ import annotations

import typer

from llmc.units import count_of


def count(value: str | int) -> int:
    """Parse a flag's number; for ``typer.Option(parser=count)``.

    Raises:
        BadParameter: it is not a whole number.
    """
    try:
        return count_of(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
