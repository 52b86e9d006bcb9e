"""The engine's C test programs, compiled as the engine is, each of them a test."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llmc.engine.isas import ISAS
from llmc.engine.toolchain import Mode, host_machine
from llmc.paths import shipped_dir
from tests.helpers.programs import kept_programs

# In place of native/kernels/dispatch.c: tables of newer CPUs, without asking the CPU for them.
UNASKED = """
#include "kernels/kernels.h"
extern const struct Kernels kernels_plain, {tables};
static const struct Kernels *const tables[] = {{&kernels_plain, {pointers}, NULL}};
const struct Kernels *kernels_at(int i) {{ return tables[i]; }}
int kernels_runnable(const struct Kernels *kernels) {{ return kernels != NULL; }}
const struct Kernels *kernels_choose(enum Dtype dtype, const char *preferred) {{
  return dtype == FP32 || preferred == NULL ? &kernels_plain : NULL;
}}
const struct Kernels *kernels_best(void) {{ return &kernels_plain; }}
double kernels_rate(const struct Kernels *k, enum Dtype dtype) {{ return k == NULL ? 0 : dtype; }}
uint64_t kernels_runnable_set(void) {{ return 0; }}
const struct Kernels *kernels_among(uint64_t s, const struct Kernels *k) {{ return s ? NULL : k; }}
"""

# A vector that is not where its type says traps, as a whole one of 64 bytes would on its own CPU.
ALIGNED = ("-fsanitize=alignment", "-fsanitize-trap=alignment")

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


@pytest.mark.parametrize("name", ["test_kernels", "test_floats", "test_decode"])
def test_products_by_a_blas_match_the_plain_loops(name: str, programs: dict[str, Path]) -> None:
    """The library is numpy's; on a Mac it would be Accelerate."""
    libraries = Path(np.__file__).parents[1] / "numpy.libs"
    blas = next(libraries.glob("*openblas*"), None)
    if blas is None:
        pytest.skip("this numpy brings no OpenBLAS")
    done = subprocess.run(
        [programs[name]],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "LLMC_BLAS": str(blas),
            "LLMC_TEST_ISA": "blas",
            "LLMC_TEST_EVERY": "4",
        },
    )
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout


@pytest.mark.parametrize("isa", ["", "blas"])
def test_a_library_that_is_no_blas_is_refused(isa: str, programs: dict[str, Path]) -> None:
    done = subprocess.run(
        [programs["test_kernels"]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LLMC_BLAS": "/dev/null", "LLMC_TEST_ISA": isa},
    )
    assert done.returncode == 2 and "LLMC_BLAS=/dev/null" in done.stderr


@pytest.mark.skipif(host_machine() != "x86_64", reason="AVX-512 and AMX are of x86")
@pytest.mark.full
def test_tables_of_newer_cpus_match_the_plain_loops_on_avx2(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few machines have AVX-512 and AMX, and qemu has neither.

    Here the compiler halves the vectors, and a model in plain C takes the place of the tiles. So
    this checks what the templates compute at these sizes, and not the compiler's 512-bit code.
    """
    isas = ("avx512", "avx512bf16", "amx", "amxfp32")
    for isa in isas:
        model = ("-DLLMC_TILES_MODEL",) if isa.startswith("amx") else ()
        flags = (*ISAS["avx2"].zig, *model, *ALIGNED)
        monkeypatch.setitem(ISAS, isa, dataclasses.replace(ISAS["avx2"], zig=flags))
    native = Path(shutil.copytree(shipped_dir("native"), tmp_path / "native"))
    for path in (native / "kernels" / "isa").iterdir():
        if path.stem not in isas:
            path.unlink()
    names = [f"kernels_{isa}" for isa in isas]
    (native / "kernels" / "dispatch.c").write_text(
        UNASKED.format(tables=", ".join(names), pointers=", ".join(f"&{name}" for name in names))
    )
    programs = kept_programs(cache, mode=Mode.RELEASE, native=native)
    for name in ("test_kernels", "test_floats", "test_decode", "test_cache"):
        done = subprocess.run(
            [programs[name]],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LLMC_TEST_EVERY": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert "0 failed" in done.stdout and "skipped" not in done.stdout
