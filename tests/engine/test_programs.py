"""The engine's C test programs, compiled as the engine is, each of them a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llmc.engine.machine import cpu_identity
from llmc.engine.toolchain import ISAS, host_machine
from llmc.paths import shipped_dir
from tests.helpers.programs import kept_programs

# In place of native/kernels/dispatch.c: AVX-512's tables, without asking the CPU whether it has
# AVX-512.
UNASKED = """
#include "kernels/kernels.h"
extern const struct Kernels kernels_plain, kernels_avx512, kernels_avx512bf16;
static const struct Kernels *const tables[] = {
    &kernels_plain, &kernels_avx512, &kernels_avx512bf16, NULL};
const struct Kernels *kernels_at(int i) { return tables[i]; }
int kernels_runnable(const struct Kernels *kernels) { return kernels != NULL; }
const struct Kernels *kernels_choose(void) { return &kernels_avx512; }
"""

PROGRAMS = sorted(path.stem for path in (shipped_dir("native") / "tests").glob("**/test_*.c"))


@pytest.fixture(scope="module")
def programs(cache: Path) -> dict[str, Path]:
    """The compiled programs by name; warnings are errors."""
    return kept_programs(cache)


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


@pytest.mark.full
@pytest.mark.skipif(host_machine() != "x86_64", reason="AVX-512 is of x86")
@pytest.mark.skipif("avx512_bf16" in cpu_identity(), reason="this CPU has tried the real ones")
def test_avx512_kernels_match_the_plain_loops_on_avx2(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few machines have AVX-512, and qemu does not: here the compiler halves its vectors.

    So this is about what the templates make of its sizes, and of pairs of BF16, multiplied here in
    plain C; the compiler's 512-bit code is not run.
    """
    halved = ("avx512", "avx512bf16")
    for isa in halved:
        monkeypatch.setitem(ISAS, isa, ISAS["avx2"])
    native = Path(shutil.copytree(shipped_dir("native"), tmp_path / "native"))
    for path in (native / "kernels" / "isa").iterdir():
        if path.stem not in halved:
            path.unlink()
    (native / "kernels" / "dispatch.c").write_text(UNASKED)
    programs = kept_programs(cache, native=native)
    for name in ("test_kernels", "test_decode"):
        done = subprocess.run([programs[name]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "0 failed" in done.stdout and "skipped" not in done.stdout
