"""The help pages: what they show, at every width, with and without colour."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from llmc.cli import help as pages
from llmc.cli.catalogue import COMMANDS
from llmc.cli.main import Command, app, load_command
from tests.helpers.places import ROOT

GLOBAL_FLAGS = ("--workspace", "--json", "--quiet", "--offline", "--help")


def shown(*words: str, columns: int = 80) -> str:
    """Return what ``llmc WORDS`` prints."""
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_page(name: str, columns: int) -> None:
    text = shown(name, "--help", columns=columns)
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith(f"Usage: llmc {name} [OPTIONS]")
    assert COMMANDS[name].summary in " ".join(text.split())
    assert text.index("Examples:") < text.index("Global options:") < text.index("Documentation:")
    assert text.splitlines()[-1] == f"Documentation: docs/{COMMANDS[name].page}"
    assert all(flag in text.split("Global options:")[1] for flag in GLOBAL_FLAGS)
    assert "range>" not in text
    assert "completion" not in text.split("Global options:")[1]
    assert shown("help", name, columns=columns) == text


@pytest.mark.parametrize("columns", [80, 120])
def test_the_page_of_llmc(columns: int) -> None:
    text = shown("--help", columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    flat = " ".join(text.split())
    for name, about in COMMANDS.items():
        assert f"{name} {about.summary}" in flat
    assert shown("help", columns=columns) == text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_commands_and_the_pages_exist(name: str) -> None:
    assert (ROOT / "docs" / COMMANDS[name].page).is_file()
    for example, _ in COMMANDS[name].examples:
        for words in example.split(" | "):
            program, command, *rest = shlex.split(words)
            assert program == "llmc"
            load_command(command).make_context(command, rest)  # raises where they do not parse


def grouped(
    plain: Annotated[int, typer.Option(help="How many.")] = 3,
    rate: Annotated[
        float | None, typer.Option(rich_help_panel="Optimizer", metavar="RATE", help="Rate.")
    ] = None,
    path: Annotated[Path | None, typer.Option(rich_help_panel="Optimizer", help="Where.")] = None,
) -> None:
    """Do nothing."""


def test_options_are_listed_under_their_groups() -> None:
    alone = typer.Typer(rich_markup_mode=None)
    alone.command("grouped", cls=Command)(grouped)
    made: Any = typer.main.get_command(alone)
    lines = made.get_help(made.make_context("grouped", [], resilient_parsing=True)).splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert rows.index("Options:") + 1 == rows.index("--plain N How many. [default: 3]")
    assert rows.index("Optimizer:") + 1 == rows.index("--rate RATE Rate.")
    assert rows.index("Optimizer:") + 2 == rows.index("--path PATH Where.")


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert not pages.new_page().colour  # pytest captures stdout
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert pages.new_page().colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not pages.new_page().colour
    page = pages.Page(80, colour=True)
    page.tables({"Options": [("--a", "b")]})
    assert "\x1b[" in page.text()
