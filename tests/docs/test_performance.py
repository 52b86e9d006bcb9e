"""docs/measured/performance.md shows what was measured, by llmc's own commands."""

from __future__ import annotations

import json
import shlex
import sys
from types import ModuleType

import pytest

from llmc.cli.main import main
from tests.helpers.places import ROOT
from tests.helpers.tools import load_program


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return load_program(ROOT / "tools" / "measure.py")


def test_the_tables_are_the_measured_ones(measure: ModuleType) -> None:
    page = (ROOT / "docs" / "measured" / "performance.md").read_text(encoding="utf-8")
    results = json.loads(measure.RESULTS.read_text())
    for table in measure.tables(results):
        assert len(table) > 2
        assert "\n".join(table) in page


def test_what_is_measured_reaches_the_goals(measure: ModuleType) -> None:
    """Whoever measures again and lands below one sees it here, and says why on the page."""
    goals = measure.goals(json.loads(measure.RESULTS.read_text()))
    missed = [goal.cells() for goal in goals if not goal.reaches(goal.goal)]
    assert missed == []
    assert not measure.Goal("x", 1.6, 2, [1.594]).reaches(1.6)
    assert measure.Goal("x", 0.76, 0.6, [0.7, 0.764], most=True).reaches(0.76)


def test_the_commands_are_understood(
    measure: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last flag with a value that is refused: so all before it were taken."""
    for command in measure.commands():
        monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--seq-len", "none"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "'--seq-len'" in capsys.readouterr().err
