"""``llmc doctor``: is this machine fit for llmc, and does the engine compute what it should."""

from __future__ import annotations

import math
import platform
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmc import __version__
from llmc.check.known_answers import distances, known_answers
from llmc.check.tolerances import (
    AFTER_TEN_STEPS,
    BF16_STEP,
    BF16_STEPS,
    FORWARD_AND_BACKWARD,
    STEPS,
)
from llmc.check.trial import BEST, BUG, THREADS, instruction_sets, trial
from llmc.cli.context import Context
from llmc.engine import machine, toolchain
from llmc.engine.build import ensure_native, native_binary
from llmc.engine.process import ERRORS, run_quietly
from llmc.errors import CompileFailed, ExitCode, Interrupted, LlmcError
from llmc.paths import cache_dir, free_bytes
from llmc.units import megabytes

if TYPE_CHECKING:
    from rich.console import Console

NEEDED_MEMORY = 2.3e9  # bytes that GPT-2 124M takes to train, B=4, T=64
NEEDED_DISK = 2e9  # its published weights, its checkpoint and a run's; the compiler's own cache

REINSTALL_ZIG = "reinstall the compiler: pip install --force-reinstall ziglang"


class State(Enum):
    """How a check ended, as JSON says it."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check found, what to do about it, and the exit code if it failed.

    An error's message says in itself what to do; then there is no other advice.
    """

    state: State
    found: str
    advice: str = ""
    code: ExitCode = ExitCode.OK


class NoEngine(Exception):
    """There is no engine to try: what kept it from being built has been said."""


@dataclass
class Exam:
    """What the checks share: earlier ones leave here what later ones need.

    Attributes:
        here: the workspace and the voice.
        binary: the engine, once there is one.
        isas: the instruction sets that it can use on this machine, worst first.
    """

    here: Context
    binary: Path | None = None
    isas: list[str] = field(default_factory=lambda: [BEST])

    @property
    def engine(self) -> Path:
        """The engine.

        Raises:
            NoEngine: there is none.
        """
        if self.binary is None:
            raise NoEngine
        return self.binary


@dataclass(frozen=True)
class Precision:
    """What linear layers multiply, and how far from PyTorch it may lead."""

    dtype: str
    step: float  # the loss and the gradients of one step
    steps: float  # the losses and the parameters of all of them


PRECISIONS = {
    "fp32": Precision("fp32", FORWARD_AND_BACKWARD, AFTER_TEN_STEPS),
    "bf16": Precision("bf16", BF16_STEP, BF16_STEPS),
}


def doctor(ctx: typer.Context) -> None:
    """Check this machine and this installation.

    It compiles the engine if it is not there yet, trains a tiny model on every instruction set that
    this CPU has, and compares with numbers that PyTorch once computed. It needs no network and no
    PyTorch, and takes seconds, or with a compilation less than a minute. The exit code is that of
    the first check that failed.
    """
    from rich.console import Console

    here: Context = ctx.obj
    began = time.monotonic()
    console = Console(highlight=False)
    findings = {}
    for name, finding in examine(here):
        findings[name] = finding
        if not here.ui.json:
            # Not by rich itself: it would make a failure of a reader who leaves.
            sys.stdout.write(_shown(console, name, finding))
            sys.stdout.flush()
    seconds = time.monotonic() - began
    failed = [name for name, finding in findings.items() if finding.state is State.FAILED]
    here.ui.result(
        {
            "ok": not failed,
            "seconds": round(seconds, 3),
            "checks": [
                {"name": name, "state": it.state.value, "found": it.found, "advice": it.advice}
                for name, it in findings.items()
            ],
        }
    )
    if failed:
        raise ERRORS.get(findings[failed[0]].code, LlmcError)(
            f"{len(failed)} of {len(findings)} checks failed ({', '.join(failed)}): "
            "the report says what to do"
        )
    warned = sum(finding.state is State.WARNING for finding in findings.values())
    here.ui.note(f"{len(findings)} checks in {seconds:.1f} s: none failed, {warned} warned")
    here.ui.next("llmc prepare stdlib")


def examine(here: Context) -> Iterator[tuple[str, Finding]]:
    """Run every check and yield its name and what it found; a failure stops none of the others.

    Raises:
        Interrupted: the person stopped the engine.
    """
    exam = Exam(here)
    for name, check in CHECKS.items():
        try:
            yield name, check(exam)
        except NoEngine:
            yield name, Finding(State.SKIPPED, "no engine to try")
        except Interrupted:
            raise
        except LlmcError as error:
            yield name, Finding(State.FAILED, str(error), code=error.exit_code)
        except OSError as error:
            yield name, Finding(State.FAILED, str(error), code=ExitCode.BAD_DATA)


def _system(_: Exam) -> Finding:
    import numpy as np

    found = (
        f"llmc {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"{platform.system()} {platform.release()} {platform.machine()}"
    )
    if platform.system() in ("Linux", "Darwin"):
        return Finding(State.OK, found)
    return Finding(State.WARNING, found, "llmc is made for Linux and macOS; on Windows, use WSL")


def _cpu(_: Exam) -> Finding:
    cores = machine.available_cores()
    return Finding(State.OK, f"{machine.cpu_name()}, {cores} {'core' if cores == 1 else 'cores'}")


def _memory(_: Exam) -> Finding:
    total, available = machine.memory()
    found = megabytes(total)
    if available is not None:
        found += f", {megabytes(available)} available"
    if (total if available is None else available) >= NEEDED_MEMORY:
        return Finding(State.OK, found)
    advice = (
        f"GPT-2 124M takes {megabytes(NEEDED_MEMORY)} to train: close other programs, or train "
        "something smaller, such as --config python-stdlib"
    )
    return Finding(State.WARNING, found, advice)


def _huge_pages(_: Exam) -> Finding:
    policy = machine.huge_pages()
    if policy is None:
        return Finding(State.OK, "this system does not say")
    if policy != "never":
        return Finding(State.OK, policy)
    setting = "/sys/kernel/mm/transparent_hugepage/enabled"
    return Finding(
        State.WARNING, f"{policy}; training is slower", f"as root: echo madvise > {setting}"
    )


def _disk(exam: Exam, *, place: Callable[[Exam], Path], elsewhere: str) -> Finding:
    path = place(exam).absolute()
    # What is not there yet will be made: the nearest folder that is there decides.
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
            file.flush()
        free = free_bytes(there)
    except OSError as error:
        found = f"cannot write {path}: {error.strerror}"
        return Finding(State.FAILED, found, elsewhere, ExitCode.BAD_DATA)
    found = f"{path}, {megabytes(free)} free"
    if free >= NEEDED_DISK:
        return Finding(State.OK, found)
    return Finding(State.WARNING, found, f"free some space, or {elsewhere}")


def _compiler(_: Exam) -> Finding:
    program = toolchain.zig().command[0]
    done = run_quietly([program, "version"])
    if done.code == 0:
        return Finding(State.OK, f"zig {done.output.strip()}")
    said = " ".join(done.output.split()) or f"exit code {done.code}"
    return Finding(State.FAILED, f"{program} does not run: {said}", REINSTALL_ZIG, ExitCode.COMPILE)


def _build(exam: Exam) -> Finding:
    began = time.monotonic()
    try:
        was_there = native_binary().is_file()
        exam.binary = ensure_native(report=exam.here.ui)
    except CompileFailed as error:
        return Finding(State.FAILED, str(error), REINSTALL_ZIG, error.exit_code)
    how = "already built" if was_there else f"built in {time.monotonic() - began:.1f} s"
    return Finding(State.OK, f"{how}: {exam.binary}")


def _isa(exam: Exam) -> Finding:
    tables, chosen = {}, ""
    for event in instruction_sets(exam.engine):
        if event["event"] == "table":
            tables[event["isa"]] = event["runnable"]
            # At once: what comes after the tables may be a refusal of LLMC_ISA.
            exam.isas = [isa for isa, runnable in tables.items() if runnable]
        else:
            chosen = event["isa"]
    found = f"{chosen}; also {', '.join(isa for isa in exam.isas if isa != chosen)}"
    if beyond := ", ".join(isa for isa, runnable in tables.items() if not runnable):
        found += f"; not on this CPU: {beyond}"
    if chosen == exam.isas[-1]:
        return Finding(State.OK, found)
    return Finding(State.WARNING, found, f"unset LLMC_ISA: {exam.isas[-1]} is faster")


def _parity(exam: Exam, *, precision: Precision) -> Finding:
    known = known_answers()
    wrong: dict[str, str] = {}
    step, steps = [0.0], [0.0]
    with trial(exam.engine) as tried:
        for isa in exam.isas:
            try:
                first, last = distances(tried.answers(isa, precision.dtype), known)
            except Interrupted:
                raise
            except LlmcError as error:
                wrong[isa] = str(error)
                continue
            off = _beyond(first, precision.step, "after one step")
            off = off or _beyond(last, precision.steps, f"after {STEPS} steps")
            if off:
                wrong[isa] = off
            step, steps = [*step, *first.values()], [*steps, *last.values()]
    if not wrong:
        isas = ", ".join(exam.isas) or "the engine"
        found = (
            f"{isas}: {max(step):.0e} off PyTorch after a step ({precision.step:.0e} allowed), "
            f"{max(steps):.0e} after {STEPS} ({precision.steps:.0e})"
        )
        return Finding(State.OK, found)
    found = "; ".join(f"{isa or 'the engine'}: {what}" for isa, what in wrong.items())
    right = [isa for isa in exam.isas if isa not in wrong]
    advice = (
        f"use LLMC_ISA={right[-1]} meanwhile; {BUG}"
        if right
        else f"reinstall llmc, and run 'llmc build --force'; if that does not help, {BUG}"
    )
    return Finding(State.FAILED, found, advice, ExitCode.INTERNAL)


def _beyond(found: Mapping[str, float], most: float, when: str) -> str:
    """Return what is farther from PyTorch than allowed, in words; nothing if nothing is."""
    off = {name: distance for name, distance in found.items() if not distance <= most}
    if not off:
        return ""
    name = max(off, key=lambda name: math.inf if math.isnan(off[name]) else off[name])
    return (
        f"{when} {len(off)} of {len(found)} tensors differ from PyTorch's, "
        f"{name} by {off[name]:.0e} ({most:.0e} allowed)"
    )


def _threads(exam: Exam) -> Finding:
    with trial(exam.engine) as tried:
        for isa in exam.isas:
            tried.hold_to_same_bits(isa)
    *counts, last = map(str, THREADS)
    return Finding(State.OK, f"{', '.join(counts)} and {last} give the same bits")


def _files(exam: Exam) -> Finding:
    with trial(exam.engine) as tried:
        tried.hold_to_round_trip()
    return Finding(State.OK, "checkpoints and tokens come back from the engine bit for bit")


CHECKS: dict[str, Callable[[Exam], Finding]] = {
    "system": _system,
    "cpu": _cpu,
    "memory": _memory,
    "huge pages": _huge_pages,
    "cache": partial(
        _disk, place=lambda _: cache_dir(), elsewhere="set LLMC_CACHE_DIR to another folder"
    ),
    "workspace": partial(
        _disk,
        place=lambda exam: exam.here.workspace.root,
        elsewhere="choose another with --workspace",
    ),
    "compiler": _compiler,
    "engine": _build,
    "isa": _isa,
    **{f"parity {name}": partial(_parity, precision=it) for name, it in PRECISIONS.items()},
    "threads": _threads,
    "files": _files,
}

MARKS = {
    State.OK: ("ok", "green"),
    State.WARNING: ("warn", "bold yellow"),
    State.FAILED: ("FAIL", "bold red"),
    State.SKIPPED: ("skip", "dim"),
}
MARK_WIDTH = 6
NAME_WIDTH = max(map(len, CHECKS)) + 2


def _shown(console: Console, name: str, finding: Finding) -> str:
    """Return a finding in print: a line, and one for the advice; on a terminal wrapped to fit."""
    from rich.text import Text

    indent = " " * (MARK_WIDTH + NAME_WIDTH)
    width = console.width - len(indent) if console.is_terminal else 0
    lines = _wrapped(finding.found, width)
    advice = _wrapped(finding.advice, width)
    mark, style = MARKS[finding.state]
    text = Text.assemble((f"{mark:<{MARK_WIDTH}}", style), f"{name:<{NAME_WIDTH}}{lines[0]}")
    for line in lines[1:]:
        text.append(f"\n{indent}{line}")
    for line in advice:
        text.append(f"\n{indent}{line}", style="bold")
    with console.capture() as captured:
        console.print(text, soft_wrap=True)
    return captured.get()


def _wrapped(words: str, width: int) -> list[str]:
    """Return lines no wider than ``width``, unless a path is; one line if there is no room."""
    if width < 20 or not words:
        return [words] if words else []
    return textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False)
