"""The engine, compiled by every gcc and clang that is installed here; warnings are errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.engine.isas import ISAS
from llmc.engine.toolchain import BINARY, Compiler, Mode, c_compiler, probed
from tests.helpers.events import json_lines
from tests.helpers.programs import kept_programs

NAMES = ["cc", "gcc", "clang"]
NAMES += [f"gcc-{n}" for n in range(11, 17)] + [f"clang-{n}" for n in range(13, 23)]


def installed() -> dict[str, str]:
    """Return the installed compilers, each program once: name by path."""
    found: dict[str, str] = {}
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            found.setdefault(str(Path(path).resolve()), name)
    return found


COMPILERS = list(installed().values())
pytestmark = pytest.mark.skipif(not COMPILERS, reason="neither gcc nor clang is installed")


# By default one compiler, and of each family one table: the rest takes a minute.
QUICK = {"generic", "avx2", "neon"}


def strict(name: str, *, whole: bool = True) -> Compiler:
    """Return the compiler; warnings are errors, and it leaves out what it cannot compile.

    Unless ``whole``, it leaves out all instruction sets but those of ``QUICK``.
    """
    version = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
    flags = "-Werror -O0"  # optimising takes minutes
    if "clang" not in version.stdout:  # without it gcc warns of branches that are never taken
        flags += " -Wno-stringop-overflow -Wno-maybe-uninitialized"
    compiler = replace(probed(c_compiler(name, flags)), version=version.stdout)
    left_out = frozenset() if whole else frozenset(set(ISAS) - QUICK)
    return replace(compiler, lacks=compiler.lacks | left_out)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        *((name, False) for name in COMPILERS[:1]),
        *(pytest.param(name, True, marks=pytest.mark.full) for name in COMPILERS),
    ],
)
def test_it_builds_the_engine(name: str, whole: bool, cache: Path) -> None:
    compiler = strict(name, whole=whole)
    engine = kept_programs(cache, compiler=compiler, mode=Mode.DEBUG, tests=False)[BINARY]
    done = subprocess.run([engine, "isa"], capture_output=True, text=True, check=True)
    tables = {line["isa"] for line in json_lines(done.stdout)}
    assert "generic" in tables
    assert not tables & compiler.lacks


@pytest.mark.full
def test_the_test_programs_pass_with_one_of_them(cache: Path) -> None:
    programs = kept_programs(cache, compiler=strict(COMPILERS[0]), mode=Mode.DEBUG)
    for name, program in programs.items():
        done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{name} compiled by {COMPILERS[0]}:\n{done.stderr}"


def test_an_instruction_set_that_a_compiler_lacks_is_left_out(tmp_path: Path) -> None:
    """A compiler that refuses every instruction set still builds the rest."""
    refusing = tmp_path / "refusing"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    compiler = probed(replace(c_compiler(str(refusing)), machine="x86_64"))
    assert compiler.lacks == {"avx2", "avx512", "avx512bf16", "amx", "amxfp32"}


def test_a_compiler_is_asked_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = probed(replace(c_compiler(f"{sys.executable} -m ziglang cc"), machine="x86_64"))
    assert not asked.lacks and not list(tmp_path.iterdir())
