"""The reference pages have every environment variable that the code reads and every exit code."""

from __future__ import annotations

import re

from llmc.errors import ExitCode
from tests.helpers.places import ROOT

REFERENCE = ROOT / "docs" / "reference"
READ = (
    re.compile(r"""environ(?:\.get|\.setdefault)?[(\[]\s*"([A-Z_]+)\""""),
    re.compile(r"""envvar="([A-Z_]+)\""""),
    re.compile(r""""((?:LLMC|HF|TIKTOKEN)_[A-Z_]+)\""""),
    re.compile(r"""getenv\("([A-Z_]+)"\)"""),
)


def read_by(*folders: str) -> set[str]:
    """Return the variables that the sources in these folders name."""
    found: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".c", ".h"):
                text = path.read_text("utf-8")
                found |= {name for pattern in READ for name in pattern.findall(text)}
    return found


def test_the_table_has_every_variable() -> None:
    page = (REFERENCE / "environment.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[A-Z].*?) \|", page, re.M)
    listed = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    read = read_by("llmc", "native")
    assert {name for name in read if f"`{name}" not in page} == set()
    ours = {name for name in listed if name.startswith("LLMC_")}
    assert ours - read - read_by("tests") == set()


def test_the_exit_codes() -> None:
    page = (REFERENCE / "exit-codes.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.M)
    assert {name: int(code) for code, name in rows} == {code.name: int(code) for code in ExitCode}
