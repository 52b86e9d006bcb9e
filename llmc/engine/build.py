"""Compiles the engine when it is not there yet; the one way to its path.

The binary's folder in the cache is named by the build's hash, so that finding it is enough to know
that it is up to date.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llmc.cli.context import Context
from llmc.engine import toolchain
from llmc.engine.machine import cpu_identity
from llmc.engine.process import run_quietly
from llmc.engine.toolchain import Compiler, Cpu, Mode, Step
from llmc.errors import BadData, CompileFailed, Usage
from llmc.paths import cache_dir, shipped_dir

SHOWN_ERRORS = 3


def native_binary(
    mode: Mode = Mode.RELEASE, native: Path | None = None, cpu: Cpu | None = None
) -> Path:
    """Return where the engine's binary is, or will be once built, for the CPUs of a choice.

    Raises:
        CompileFailed: there is no compiler or no source.
    """
    native = native or shipped_dir("native")
    key = toolchain.build_key(compiler_for(cpu or chosen_cpu()), native, mode)
    return cache_dir() / "native" / key / toolchain.BINARY


def compiler_for(cpu: Cpu) -> Compiler:
    """Return zig for a choice of CPUs. A build for one CPU is named after it too: homes are shared.

    Raises:
        CompileFailed: there is no compiler.
    """
    zig = toolchain.zig()
    return replace(
        zig, cpu=cpu, version=zig.version + (cpu_identity() if cpu is Cpu.NATIVE else "")
    )


def chosen_cpu() -> Cpu:
    """Return what LLMC_CPU asks for: baseline, unless it says native.

    Raises:
        Usage: it says something else.
    """
    word = os.environ.get("LLMC_CPU") or Cpu.BASELINE.value
    if word not in [cpu.value for cpu in Cpu]:
        raise Usage(f"LLMC_CPU must be baseline or native, not '{word}'")
    return Cpu(word)


def ensure_native(
    here: Context,
    *,
    force: bool = False,
    debug: bool = False,
    sanitize: bool = False,
    cpu: Cpu | None = None,
    native: Path | None = None,
) -> Path:
    """Return the path of the engine's binary, compiling it first if it is not there.

    Args:
        here: whose voice says what is going on.
        force: compile even if it is there.
        debug: with symbols and little optimisation.
        sanitize: like debug, and stopping at undefined behaviour.
        cpu: which CPUs it is for; if not given, those that LLMC_CPU names, else the whole family.
        native: the folder of C sources, if not llmc's own.

    Raises:
        CompileFailed: the compiler refused, or there is none.
        BadData: the cache cannot be written.
    """
    native = native or shipped_dir("native")
    mode = Mode.SANITIZE if sanitize else Mode.DEBUG if debug else Mode.RELEASE
    cpu = cpu or chosen_cpu()
    binary = native_binary(mode, native, cpu)
    if binary.is_file() and not force:
        return binary
    here.ui.note("building the engine, once per version …")
    start = time.monotonic()
    with _scratch(binary.parent) as scratch:
        (built,) = build_programs(scratch, compiler=compiler_for(cpu), mode=mode, native=native)
        # A rename replaces in one step whatever another build has put there meanwhile, and a
        # program that is running keeps its file.
        built.replace(binary)
    here.ui.note(f"built in {time.monotonic() - start:.1f} s: {binary}")
    return binary


def build_programs(
    out: Path,
    *,
    compiler: Compiler | None = None,
    mode: Mode = Mode.RELEASE,
    native: Path | None = None,
    tests: bool = False,
) -> list[Path]:
    """Compile the engine, or the C test programs, into ``out`` and return the programs' paths.

    Args:
        out: the folder for objects and programs, made if it is not there.
        compiler: zig for this machine, if not given.
        mode: what the build is for.
        native: the folder of C sources, if not llmc's own.
        tests: the test programs instead of the engine.

    Raises:
        CompileFailed: the compiler refused, or there is none.
    """
    compiler = compiler or toolchain.zig()
    plan = toolchain.plan(compiler, native or shipped_dir("native"), out, mode=mode, tests=tests)
    out.mkdir(parents=True, exist_ok=True)
    _run(compiler, plan.objects)
    _run(compiler, plan.links)
    return [step.output for step in plan.links]


def _run(compiler: Compiler, steps: tuple[Step, ...]) -> None:
    """Run compiler steps side by side.

    Raises:
        CompileFailed: one of them failed.
    """
    # zig keeps its own cache; without these it would lie in the home and the current directory.
    cache = str(cache_dir() / "zig")
    env = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache} if compiler.is_zig else {}
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        for step, done in zip(
            steps, pool.map(lambda step: run_quietly(step.argv, env), steps), strict=True
        ):
            if done.code != 0:
                raise CompileFailed(_reason(step, done.output))
    finally:
        pool.shutdown(cancel_futures=True)


def _reason(step: Step, output: str) -> str:
    """Return one sentence from a compiler's output: its first errors, one line each."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines or ["the compiler said nothing"]
    errors = [line for line in errors if "errors generated" not in line][:SHOWN_ERRORS]
    what = (
        f"{step.source.name} did not compile" if step.source else f"{step.output.name} did not link"
    )
    return f"{what}: {'; '.join(errors)}"


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """Make ``beside`` and yield a temporary folder in the same place, removed afterwards.

    Raises:
        BadData: the cache cannot be written.
    """
    try:
        beside.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".build-", dir=beside))
    except OSError as error:
        raise BadData(
            f"cannot write {beside}: {error.strerror}; set LLMC_CACHE_DIR to another folder"
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
