"""The engine's C test programs, compiled as the engine is, each of them a test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from llmc.builder import build_programs
from llmc.paths import shipped_dir

PROGRAMS = sorted(path.stem for path in (shipped_dir("native") / "tests").glob("test_*.c"))


@pytest.fixture(scope="module")
def programs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The compiled programs by name; warnings are errors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMC_CACHE_DIR", str(cache))
        built = build_programs(tmp_path_factory.mktemp("programs"), tests=True)
    return {path.name: path for path in built}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str, programs: dict[str, Path]) -> None:
    done = subprocess.run(
        [programs[name]], capture_output=True, text=True, check=False, timeout=300
    )
    print(done.stdout)
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stderr}"
    assert "0 failed" in done.stdout


def test_a_failed_check_fails_the_program(programs: dict[str, Path]) -> None:
    """No table is left to test, which the program must not take for success."""
    done = subprocess.run(
        [programs["test_kernels"]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LLMC_TEST_ISA": "abacus"},
    )
    assert done.returncode == 1
    assert "failed: no table to test: LLMC_TEST_ISA=abacus" in done.stderr
