"""The page on --for has the table of tools/by_hand.py; the dial is as good as settings by hand."""

from __future__ import annotations

import json
from collections import Counter
from types import ModuleType

import pytest

from tests.helpers.places import ROOT
from tests.helpers.tools import load_program

PAGE = (ROOT / "docs" / "guide" / "dial.md").read_text("utf-8")
MOST = 0.05  # nats that the dial's loss may be above the best by hand


@pytest.fixture(scope="module")
def by_hand() -> ModuleType:
    return load_program(ROOT / "tools" / "by_hand.py")


def test_the_table_is_the_measured_one(by_hand: ModuleType) -> None:
    lines = by_hand.table(by_hand.Results().all)
    assert len(lines) == 4
    for line in lines:
        assert line in PAGE


def test_no_text_ends_worse_than_by_hand(by_hand: ModuleType) -> None:
    results = json.loads(by_hand.RESULT.read_text("utf-8"))
    least: dict[tuple[str, str], float] = {}
    for run in (run for run in results if "best" in run):
        key = run["text"], run["by"]
        least[key] = min(run["best"], least.get(key, run["best"]))
    texts = Counter(text for text, _ in least)
    assert set(texts.values()) == {2}
    for text in texts:
        assert least[text, "dial"] <= least[text, "hand"] + MOST, text
