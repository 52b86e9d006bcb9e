"""docs/guide/training.md agrees with the flags, their defaults, resuming, and the ends."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest
import typer

from llmc.cli.commands.train import train
from llmc.config import SCHEDULES, TrainConfig
from llmc.train.endings import STATES
from llmc.train.record import CHANGEABLE
from tests.helpers.places import ROOT

TEXT = (ROOT / "docs" / "guide" / "training.md").read_text("utf-8")
SETTINGS = asdict(TrainConfig())
CHOSEN = {"data", "val_data", "model", "config", "run", "threads"}  # by the command, not a setting
LEFT_OUT = ("model", "config", "dry_run")  # on a resume


def rows(head: str) -> list[list[str]]:
    """Return the rows of the table whose head begins so, without the head."""
    (table,) = re.findall(rf"^\| {head}.*\n\|[- |]+\n((?:\|.*\n)+)", TEXT, re.M)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


FLAGS = {row[0].strip("`"): row[1:] for row in rows("flag")}


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    """Return the command's options by their flag."""
    alone = typer.Typer(add_completion=False)
    alone.command()(train)
    found: dict[str, Any] = {p.opts[0]: p for p in typer.main.get_command(alone).params}
    found.pop("--help", None)
    return found


def name_of(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def shown(value: object) -> str:
    """Return a default as the page has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_flag_is_there_and_no_other(options: dict[str, Any]) -> None:
    assert set(FLAGS) == set(options)
    assert {name_of(flag) for flag in FLAGS} == {*SETTINGS, *CHOSEN, "resume", "dry_run"}


def test_every_default_is_the_code_s() -> None:
    for flag, (default, unit, meaning, preset, _) in FLAGS.items():
        name = name_of(flag)
        assert preset == ("yes" if name in SETTINGS else "no"), flag
        assert unit and meaning, flag
        if name in SETTINGS:
            assert default == shown(SETTINGS[name]), flag


def test_the_help_has_every_default_too(options: dict[str, Any]) -> None:
    for flag, option in options.items():
        name = name_of(flag)
        assert option.help, flag
        if name in SETTINGS and not isinstance(SETTINGS[name], bool):
            default = shown(SETTINGS[name])
            assert re.search(rf"\(({re.escape(default)}\b|0: )", option.help), (flag, option.help)
        elif name in SETTINGS:
            typed = flag if SETTINGS[name] else f"--no-{name}"
            assert option.help.endswith(f"({typed})."), flag


def test_what_may_change_on_a_resume_is_the_code_s() -> None:
    for flag, row in FLAGS.items():
        name = name_of(flag)
        if name in SETTINGS:
            assert row[-1] == ("may change" if name in CHANGEABLE else "stays"), flag
        else:
            assert row[-1] == ("left out" if name in LEFT_OUT else "may change")


def test_the_ends_are_the_engine_s() -> None:
    said = {row[0].strip("`"): row[3] for row in rows("reason")}
    assert said == STATES
    source = (ROOT / "native" / "train" / "stopping.c").read_text()
    (names,) = re.findall(r"END_NAMES\[\] = \{(.*?)\}", source, re.S)
    assert ["goes-on", *said] == re.findall(r'"([\w-]+)"', names)


def test_schedules_and_links_lead_somewhere() -> None:
    assert FLAGS["--schedule"][2].endswith(": " + ", ".join(SCHEDULES))
    for path in re.findall(r"`((?:native|llmc|docs|tests)/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path
    formats = (ROOT / "docs" / "reference" / "formats.md").read_text("utf-8")
    assert "## Run folder" in formats
