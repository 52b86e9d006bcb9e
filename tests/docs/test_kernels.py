"""docs/engine/kernels.md and its steps: they compute what they say, and are what it shows."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.helpers.places import ROOT
from tests.helpers.tools import load_program

Array = np.ndarray[Any, np.dtype[np.float32]]
PAGE = ROOT / "docs" / "engine" / "kernels.md"
STEPS = PAGE.parent / "gemm"


@pytest.fixture(scope="module")
def program(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Return docs/engine/gemm/run.py as a module that builds in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # as the program does, but undone
        module = load_program(STEPS / "run.py")
        for kind in ("LOCAL", "GLOBAL"):
            patch.setenv(f"ZIG_{kind}_CACHE_DIR", str(cache / "zig"))
        patch.setattr(module, "BUILD", tmp_path_factory.mktemp("steps"))
        yield module


def test_every_step_is_right_on_ragged_sizes(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--check", "--threads", "3"])
    program.main()
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [step.name for step in program.STEPS]


def test_a_wrong_step_is_refused(program: ModuleType) -> None:
    def forgetful(out: Array, left: Array, right: Array) -> None:
        out[:] = left[:, 1:] @ right[1:]

    with pytest.raises(SystemExit, match="step 1 three loops is wrong by"):
        program.check(program.STEPS[0], forgetful, (7, 17, 9))


def test_any_number_of_threads_gives_the_same_bits(program: ModuleType) -> None:
    library = program.compiled("9_threads.c", "any_number")
    run = program.function(library, "linear_gelu")
    out, a, _, weight = program.operands(250, 1000, 500)
    bits = set()
    for threads in (1, 2, 3, 5):
        ctypes.c_int.in_dll(library, "threads").value = threads
        out[:] = np.nan
        run(out, a, weight)
        bits.add(out.tobytes())
    assert len(bits) == 1


def rows(title: str) -> list[list[str]]:
    """Return the cells of the page's table whose first cell is ``title``, heading first."""
    text = PAGE.read_text("utf-8")
    (table,) = re.findall(rf"^\| {re.escape(title)} \|.*\n(?:\|.*\n)+", text, re.M)
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [found[0], *found[2:]]


def test_the_pages_tables_are_those_the_program_prints(program: ModuleType) -> None:
    heading, *steps = rows("step")
    shapes = ["×".join(map(str, shape)) for shape in program.SHAPES]
    assert heading == ["step", *shapes, "of peak"]
    assert [cells[0] for cells in steps] == [step.name for step in program.STEPS]
    _, *tiles = rows("tile")
    assert [cells[0] for cells in tiles] == [f"{MR} × {NRV}" for MR, NRV in program.TILES]
    for cells in (*steps, *tiles):
        assert all(re.fullmatch(r"[\d.]+ ± [\d.]+", cell) for cell in cells[1:-1]), cells


def test_the_page_quotes_the_steps() -> None:
    text = PAGE.read_text("utf-8")
    sources = [path.read_text("utf-8") for path in sorted(STEPS.glob("*.[ch]"))]
    quotes = re.findall(r"^```c\n(.*?)^```$", text, re.M | re.S)
    assert quotes
    for quote in quotes:
        assert any(quote in source for source in sources), quote


def test_the_page_names_every_step() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE.read_text("utf-8"))
    for path in STEPS.glob("*.[ch]"):
        assert f"gemm/{path.name}" in links
