"""The pages of CPUs show what was measured on them, by llmc's own commands."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmc.cli.main import main
from tests.helpers.places import ROOT
from tests.helpers.tools import load_program

CPUS = sorted((ROOT / "docs" / "measured" / "cpus").glob("*.json"))


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return load_program(ROOT / "tools" / "measure.py")


@pytest.mark.parametrize("file", CPUS, ids=lambda file: file.stem)
def test_a_page_shows_what_was_measured(measure: ModuleType, file: Path) -> None:
    told = "run: python tools/measure.py --print"
    page = measure.page(measure.kept_in(file))
    assert file.with_suffix(".md").read_text("utf-8") == page, told
    assert not re.findall(r"\b1[0-9]{2}%", page), "a peak was disturbed: measure that row again"


@pytest.mark.parametrize("file", CPUS, ids=lambda file: file.stem)
def test_the_readme_has_the_measured_steps(measure: ModuleType, file: Path) -> None:
    """Each of its rows of such a CPU has the times and the ratio of the CPU's page."""
    kept, readme = measure.kept_in(file), (ROOT / "README.md").read_text("utf-8")
    name = file.stem.replace("-", " ").title()
    _, begin, after = readme.partition(f"{name}, 2 threads |")
    assert begin
    rows, _, _ = after.partition(" threads |")  # up to the next CPU
    shown = set()
    for shape in measure.SHAPES:
        for rival in measure.RIVALS:
            against = kept["results"][measure.step_command(shape, rival)]["against"]
            ours, theirs = (measure.seconds(against[side]) for side in ("ours_ms", "theirs_ms"))
            if f" {theirs} | {ours} | {against['ratio']:.2f} times as fast |" in rows:
                shown.add((shape, rival))
    everywhere = {(shape, rival) for shape in measure.SHAPES for rival in measure.RIVALS}
    assert {rival for _, rival in everywhere - shown} <= {"fp32, torch.compile"}
    assert rows.count("times as fast") == len(shown)


def test_what_is_measured_reaches_the_goals(measure: ModuleType) -> None:
    """Whoever measures again and lands below one sees it here, and says why on the page."""
    (zen_5,) = (file for file in CPUS if file.stem == "zen-5")
    goals = measure.goals(measure.kept_in(zen_5)["results"])
    assert [goal.cells() for goal in goals if not goal.reaches(goal.goal)] == []
    assert not measure.Goal("x", 1.6, 2, [1.594]).reaches(1.6)
    assert measure.Goal("x", 0.76, 0.6, [0.7, 0.764], most=True).reaches(0.76)


def test_the_commands_are_understood(
    measure: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last flag with a value that is refused: so all before it were taken."""
    commands = measure.commands(4, ["amxfp32"])
    asked = [command for command in commands if command.startswith(measure.ASKED)]
    assert len(asked) == 6 and len(set(commands)) == len(commands)
    for command in commands:
        words = shlex.split(command.removeprefix(measure.ASKED))
        monkeypatch.setattr(sys, "argv", [*words, "--seq-len", "none"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "'--seq-len'" in capsys.readouterr().err


def test_a_cpu_that_was_measured_in_part_has_a_page(measure: ModuleType) -> None:
    """Tables without rows are left out, not shown empty."""
    (zen_5,) = (file for file in CPUS if file.stem == "zen-5")
    kept = measure.kept_in(zen_5)
    step = measure.step_command(measure.SHORT, "fp32, eager")
    kernels = measure.kernels_command(measure.LONG, "bf16")
    kept["results"] = {command: kept["results"][command] for command in (step, kernels)}
    page = measure.page(kept)
    assert "## A step against PyTorch" in page and "## Kernels alone" in page
    assert "## Decoding" not in page and "kernel, B=4 T=64" not in page
    assert "| bf16 | GF/s |" in page and "| fp32 | GF/s |" not in page
