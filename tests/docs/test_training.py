"""docs/reference/settings.md and the pages about training agree with the code and the engine."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from llmc.cli.commands.train import train
from llmc.cli.options import GROUPS
from llmc.config import TRAIN_SETTINGS
from llmc.train.metrics import STATES
from tests.helpers.places import ROOT
from tools.settings_page import PAGE, page

GUIDE = ROOT / "docs" / "guide"
TEXT = "\n".join((GUIDE / name).read_text("utf-8") for name in ("training.md", "resume.md"))
NOT_SETTINGS = {
    *("data", "val_data", "model", "config", "run", "threads", "resume", "resume_from", "dry_run"),
    *("budget", "launch"),
}


def rows(head: str) -> list[list[str]]:
    """Return the rows of the table whose head begins so, without the head."""
    (table,) = re.findall(rf"^\| {head}.*\n\|[- |]+\n((?:\|.*\n)+)", TEXT, re.M)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    """Return the command's options by name."""
    alone = typer.Typer(add_completion=False)
    alone.command()(train)
    found = {p.name: p for p in typer.main.get_command(alone).params}
    found.pop("help", None)
    return found


def test_the_page_of_settings_is_generated() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python -m tools.settings_page"


def test_every_setting_is_an_option_with_help_and_a_group(options: dict[str, Any]) -> None:
    assert set(options) == {*TRAIN_SETTINGS, *NOT_SETTINGS, "log_every"}
    for option in options.values():
        assert option.help and option.rich_help_panel in GROUPS, option.name
    for name, setting in TRAIN_SETTINGS.items():
        default = setting.shown_default
        if isinstance(setting.default, bool):
            default = setting.flag if setting.default else f"--no-{name}"
        elif default == "0":
            default = "0"
        assert re.search(rf"\(({re.escape(default)}\b|0: )", options[name].help), name


def test_options_of_a_group_stand_together(options: dict[str, Any]) -> None:
    groups = [option.rich_help_panel for option in options.values()]
    assert groups == sorted(groups, key=GROUPS.index)


def test_the_engine_has_the_same_settings_defaults_and_ranges() -> None:
    source = (ROOT / "native" / "train" / "train.c").read_text()
    found = re.findall(r'\{"([\w-]+)", ARG_(\w+), &(?:\(struct Choice\)\{&)?o\.([\w.]+)', source)
    places = {key.replace("-", "_"): place for key, _, place in found}
    assert set(TRAIN_SETTINGS) <= set(places)
    (text,) = re.findall(r"struct RunOptions o = \{\n(.*?)\n  \};", source, re.S)
    nested = re.sub(r"\.(\w+) = \{\.(\w+) = ([^}]*)\}", r".\1.\2 = \3", text)
    defaults = dict(re.findall(r"\.([\w.]+) = ([^,\n]+)", nested))
    for name, setting in TRAIN_SETTINGS.items():
        if isinstance(setting.default, str):
            continue  # the first of the choices, or no time
        given = defaults.get(places[name], "0").replace("true", "1")
        assert float(given) == float(setting.default), name
    assert {
        name for name, s in TRAIN_SETTINGS.items() if s.choices and s.default != s.choices[0]
    } == set()


def test_the_ends_are_the_engine_s() -> None:
    said = {row[0].strip("`"): row[3] for row in rows("reason")}
    assert said == STATES
    source = (ROOT / "native" / "train" / "stopping.c").read_text()
    (names,) = re.findall(r"END_NAMES\[\] = \{(.*?)\}", source, re.S)
    assert ["goes-on", *said] == re.findall(r'"([\w-]+)"', names)


def test_links_lead_somewhere() -> None:
    for path in re.findall(r"`((?:native|llmc|docs|tests)/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path
    formats = (ROOT / "docs" / "reference" / "formats.md").read_text("utf-8")
    assert "## Run folder" in formats
