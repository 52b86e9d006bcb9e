"""Prose is wrapped at 120 columns, so that a page reads well in a terminal and in a diff."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

WIDTH = 120
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def long_lines(page: Path) -> Iterator[str]:
    """Yield the lines of prose that are too long: tables, code and single long words are not."""
    fenced = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        is_prose = not (fenced or line.lstrip().startswith("|") or line.startswith("    "))
        if is_prose and len(line) > WIDTH and " " in re.sub(r"`[^`]*`", "", line.strip()):
            yield f"{page.relative_to(ROOT)}:{number}: {len(line)} columns"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path) -> None:
    assert list(long_lines(page)) == []
