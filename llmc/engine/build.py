"""Compile the engine if its binary is missing, and find the binary.

The binary's folder in the cache is named by a hash of the build, so a binary that is found is up to
date.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llmc.engine import toolchain
from llmc.engine.machine import cpu_identity
from llmc.engine.process import run_quietly
from llmc.engine.toolchain import Compiler, Cpu, Mode, Step
from llmc.errors import BadData, CompileFailed, Usage
from llmc.paths import cache_dir, shipped_dir
from llmc.report import SILENT, Advance, Report

SHOWN_ERRORS = 3


def native_binary(
    mode: Mode = Mode.RELEASE,
    native: Path | None = None,
    cpu: Cpu | None = None,
    target: str | None = None,
) -> Path:
    """Return where the engine's binary is, or will be once it is built.

    Raises:
        CompileFailed: there is no compiler or no source.
    """
    native = native or shipped_dir("native")
    compiler = compiler_for(cpu or chosen_cpu(), target)
    key = toolchain.build_key(compiler, native, mode)
    return cache_dir() / "native" / key / compiler.program(toolchain.BINARY)


def compiler_for(cpu: Cpu, target: str | None = None) -> Compiler:
    """Return zig for a choice of CPUs, of this machine or of one of ``toolchain.TARGETS``.

    The version of a build for one CPU includes that CPU: machines may share a home folder.

    Raises:
        CompileFailed: there is no compiler.
        Usage: this machine's CPU was chosen, and another target.
    """
    if target is not None and cpu is Cpu.NATIVE:
        raise Usage("a build for another target is for any CPU of its family: use --cpu baseline")
    zig = toolchain.zig(target)
    version = zig.version + (cpu_identity() if cpu is Cpu.NATIVE else "")
    return replace(zig, cpu=cpu, version=version)


def chosen_cpu() -> Cpu:
    """Return the value of LLMC_CPU; the default is baseline.

    Raises:
        Usage: it is neither baseline nor native.
    """
    word = os.environ.get("LLMC_CPU") or Cpu.BASELINE.value
    if word not in [cpu.value for cpu in Cpu]:
        raise Usage(f"LLMC_CPU must be baseline or native, not '{word}'")
    return Cpu(word)


@dataclass(frozen=True)
class Built:
    """What a build did: the engine's binary, and how long compiling took, if it was not there."""

    path: Path
    compiled: bool
    seconds: float = 0.0


def ensure_native(*, report: Report = SILENT) -> Path:
    """Return the path of the engine's binary, as :func:`build_native` with its defaults does."""
    return build_native(report=report).path


def build_native(
    *,
    report: Report = SILENT,
    force: bool = False,
    mode: Mode = Mode.RELEASE,
    cpu: Cpu | None = None,
    native: Path | None = None,
    target: str | None = None,
) -> Built:
    """Compile the engine if its binary is not there, and return what was done.

    Args:
        report: shows the progress of compiling.
        force: compile even if the binary is there.
        mode: what the build is for.
        cpu: the CPUs to build for. Default: those that LLMC_CPU names, else the whole family.
        native: the folder of C sources. Default: llmc's own.
        target: one of ``toolchain.TARGETS``. Default: this machine and its system.

    Raises:
        CompileFailed: the compiler refused, or there is none.
        BadData: the cache cannot be written, or others can write it.
        Usage: ``cpu`` is this machine's, and there is a target.
    """
    native = native or shipped_dir("native")
    cpu = cpu or chosen_cpu()
    binary = native_binary(mode, native, cpu, target)
    check_private(binary)
    check_private(cache_dir() / "zig")
    if binary.is_file() and not force:
        return Built(binary, compiled=False)
    with _only_one(binary.parent, report):
        if binary.is_file() and not force:  # another process has built it meanwhile
            return Built(binary, compiled=False)
        return _build(binary, compiler_for(cpu, target), mode, native, report)


def _build(binary: Path, compiler: Compiler, mode: Mode, native: Path, report: Report) -> Built:
    report.note("building the engine, once per version …")
    start = time.monotonic()
    try:
        binary.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(
            prefix=".build-", dir=binary.parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise _cannot_write(binary.parent, error) from error
    with scratch as folder:
        (built,) = build_programs(
            Path(folder), compiler=compiler, mode=mode, native=native, report=report
        )
        # The rename replaces in one step whatever another build has put there meanwhile, and a
        # running program keeps its file.
        built.replace(binary)
    seconds = time.monotonic() - start
    report.note(f"built in {seconds:.1f} s: {binary}")
    return Built(binary, compiled=True, seconds=seconds)


def build_programs(
    out: Path,
    *,
    compiler: Compiler,
    mode: Mode = Mode.RELEASE,
    native: Path,
    tests: bool = False,
    report: Report = SILENT,
) -> list[Path]:
    """Compile the engine, or with ``tests`` the C test programs, into ``out``; return their paths.

    Raises:
        CompileFailed: the compiler refused.
    """
    plan = toolchain.plan(compiler, native, out, mode=mode, tests=tests)
    out.mkdir(parents=True, exist_ok=True)
    with report.bar("compiling", len(plan.objects), "files") as advance:
        _run(compiler, plan.objects, advance)
        _run(compiler, plan.links)
    return [step.output for step in plan.links]


def _run(compiler: Compiler, steps: tuple[Step, ...], advance: Advance | None = None) -> None:
    """Run compiler steps in parallel; raise CompileFailed if one of them fails."""
    # zig keeps its own cache; without these it would lie in the home and the current directory.
    cache = str(cache_dir() / "zig")
    env = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache} if compiler.is_zig else {}
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    running = {pool.submit(run_quietly, step.argv, env): step for step in steps}
    try:
        for future in as_completed(running):
            done = future.result()
            if done.code != 0:
                raise CompileFailed(_reason(running[future], done.output))
            if advance is not None:
                advance(1)
    finally:
        pool.shutdown(cancel_futures=True)


def _reason(step: Step, output: str) -> str:
    """Return one sentence from a compiler's output: its first errors, one line each."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines or ["no output"]
    shown = [line for line in errors if "errors generated" not in line][:SHOWN_ERRORS]
    failed = "compile" if step.source else "link"
    return f"{(step.source or step.output).name} did not {failed}: {'; '.join(shown)}"


def check_private(path: Path) -> None:
    """Check that no other user can put a program in a place, or in a folder above it.

    Other users may write in a folder whose sticky bit keeps them from what is not theirs.

    Raises:
        BadData: another user can.
    """
    own = (0, os.getuid())
    for place in dict.fromkeys(
        each for start in (path.absolute(), path.resolve()) for each in (start, *start.parents)
    ):
        try:
            found = place.lstat()
        except OSError:
            continue  # it is made later
        mode = 0 if stat.S_ISLNK(found.st_mode) else found.st_mode
        by_all = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
        by_group = mode & stat.S_IWGRP and found.st_gid not in (0, os.getgid())
        if found.st_uid not in own or by_all or by_group:
            raise BadData(
                f"other users can write {place}, and could put another program there for the "
                f"engine: take that from them (chmod go-w {place}), or set LLMC_CACHE_DIR to a "
                "folder of your own"
            )


@contextmanager
def _only_one(folder: Path, report: Report) -> Iterator[None]:
    """Let one process at a time build a folder's engine; a launcher starts many at once.

    Raises:
        BadData: the folder's place cannot be written.
    """
    from filelock import FileLock, Timeout  # most commands find the engine built

    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report.note("another llmc is building the engine: waiting for it …")
            lock.acquire()
    except NotImplementedError:  # without locks each builds, and the last one's engine stays
        pass
    except OSError as error:
        raise _cannot_write(folder.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _cannot_write(place: Path, error: OSError) -> BadData:
    return BadData(f"cannot write {place}: {error.strerror}; set LLMC_CACHE_DIR to another folder")
