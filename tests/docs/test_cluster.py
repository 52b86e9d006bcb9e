"""The tables of ranks, in the guide and of what was measured, are those of the tool."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from tests.helpers.places import ROOT
from tests.helpers.tools import load_program


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_program(ROOT / "tools" / "ranks_bench.py")


def test_the_table_of_networks_is_the_formula(bench: ModuleType) -> None:
    page = (ROOT / "docs" / "guide" / "cluster.md").read_text("utf-8")
    assert "\n".join(bench.network_table()) in page


def test_the_rule_of_ninety_percent_is_the_formula(bench: ModuleType) -> None:
    """t = 12 F / B tokens per rank and update, whatever the model, where there are many ranks."""
    flops = 6 * bench.P * bench.SPEED
    for bandwidth in bench.NETWORKS.values():
        tokens = 12 * flops / bandwidth
        many = 10_000
        assert abs(bench.efficiency(tokens * many, many, bandwidth) - 0.9) < 1e-3


def test_the_table_of_ranks_is_the_measured_one(bench: ModuleType) -> None:
    page = (ROOT / "docs" / "measured" / "ranks.md").read_text("utf-8")
    table = bench.table(json.loads(bench.KEPT.read_text()))
    assert len(table) > 2
    assert "\n".join(table) in page
