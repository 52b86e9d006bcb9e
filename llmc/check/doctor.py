"""The checks of ``llmc doctor``: is this machine fit for llmc, does the engine compute right?"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path

from llmc import __version__
from llmc.check import mpi
from llmc.check.known_answers import distances, known_answers
from llmc.check.tolerances import (
    AFTER_TEN_STEPS,
    BF16_STEP,
    BF16_STEPS,
    FORWARD_AND_BACKWARD,
    STEPS,
)
from llmc.check.trial import BEST, BUG, THREADS, trial
from llmc.engine import machine, toolchain
from llmc.engine.build import build_native
from llmc.engine.launcher import Launch
from llmc.engine.machine import instruction_sets
from llmc.engine.process import run_quietly
from llmc.errors import CompileFailed, ExitCode, Interrupted, LlmcError
from llmc.installation import DISTRIBUTION, install_command, other_llmc, pip_install
from llmc.paths import Workspace, cache_dir, free_bytes
from llmc.report import SILENT, Report
from llmc.units import megabytes

NEEDED_MEMORY = 2.3e9  # bytes for training GPT-2 124M at B=4, T=64
NEEDED_DISK = 2e9  # bytes for its weights, two checkpoints and the compiler's cache
NO_AMX = "use a virtual machine or a kernel that passes AMX on: it makes bf16 several times faster"
NO_AMX_BUILT = "unset LLMC_CPU: a build for all CPUs has AMX, which makes bf16 several times faster"
CLEARLY = 1.2  # times as fast: what two measurements of one rate do not differ by


class State(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    state: State  # how it ended
    found: str  # what was found, in one line
    advice: str = ""  # what to do about it; empty where nothing is wrong or ``found`` says it
    code: ExitCode = ExitCode.OK  # the exit code of a failure


class NoEngine(Exception):
    """There is no engine to test; an earlier check reported why."""


@dataclass
class Exam:
    """What the checks share: earlier ones leave here what later ones need."""

    workspace: Workspace  # where datasets and runs go
    report: Report = SILENT  # shows the progress of compiling
    launch: Launch | None = None  # a cluster's launcher; None: the one on this machine is tried
    binary: Path | None = None  # the engine, once there is one
    # The instruction sets that it can use on this machine, slowest first.
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


# Of each dtype, the largest relative error of a tensor's gradient after one step, and of a
# parameter after STEPS steps.
ALLOWED = {"fp32": (FORWARD_AND_BACKWARD, AFTER_TEN_STEPS), "bf16": (BF16_STEP, BF16_STEPS)}


def examine(
    workspace: Workspace,
    names: Iterable[str] = (),
    *,
    launch: Launch | None = None,
    report: Report = SILENT,
) -> Iterator[tuple[str, Finding]]:
    """Run checks and yield the name and the result of each; a failure stops no other check.

    Args:
        workspace: where datasets and runs go.
        names: of :data:`CHECKS`, in their order, since some need earlier ones. Default: all.
        launch: what starts the ranks of a cluster, to check them too.
        report: shows the progress of compiling.

    Raises:
        Interrupted: Ctrl-C while the engine ran.
    """
    exam = Exam(workspace, report, launch)
    for name in names or CHECKS:
        try:
            yield name, CHECKS[name](exam)
        except NoEngine:
            yield name, Finding(State.SKIPPED, "there is no engine to test")
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


def _package(_: Exam) -> Finding:
    other = other_llmc()
    if other is None:
        return Finding(State.OK, f"llmc comes from {DISTRIBUTION}")
    advice = (
        f"PyPI's llmc is another project: pip uninstall llmc, then install {DISTRIBUTION} again"
    )
    found = f"the distribution llmc {other} is installed too, and has the same package name"
    return Finding(State.WARNING, found, advice)


def _cpu(_: Exam) -> Finding:
    cpus, threads = machine.available_cpus(), machine.default_threads()
    found = f"{machine.cpu_name()}, CPUs to use: {cpus}, threads by default: {threads}"
    return Finding(State.OK, found)


def _memory(exam: Exam) -> Finding:
    total, available = machine.memory(exam.engine)
    found = f"the machine has {megabytes(total)}"
    if available is not None:
        found = f"{megabytes(available)} available to a run; {found}"
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
    # A folder that does not exist yet will be made in the nearest one that does.
    there = next(place for place in (path, *path.parents) if place.exists())
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
    return Finding(
        State.FAILED, f"{program} does not run: {said}", _reinstall_zig(), ExitCode.COMPILE
    )


def _reinstall_zig() -> str:
    return f"reinstall the compiler: {pip_install('--force-reinstall', 'ziglang')}"


def _build(exam: Exam) -> Finding:
    try:
        built = build_native(report=exam.report)
    except CompileFailed as error:
        return Finding(State.FAILED, str(error), _reinstall_zig(), error.exit_code)
    exam.binary = built.path
    how = f"built in {built.seconds:.1f} s" if built.compiled else "already built"
    return Finding(State.OK, f"{how}: {built.path}")


def _isa(exam: Exam) -> Finding:
    tables, rates, chosen = {}, {}, ""
    for event in instruction_sets(exam.engine, rates=True):
        if event["event"] == "table":
            tables[event["isa"]] = event["runnable"]
            rates[event["isa"]] = [
                event.get(f"{dtype}_flops", 0) / 1e9 for dtype in ("fp32", "bf16")
            ]
            # At once: what comes after the tables may be a refusal of LLMC_ISA.
            exam.isas = [isa for isa, runnable in tables.items() if runnable]
        else:
            chosen = event["isa"]
    *_, of_bf16 = instruction_sets(exam.engine, "bf16")
    fp32, bf16 = rates[chosen][0], rates[of_bf16["isa"]][1]
    of_other = "" if of_bf16["isa"] == chosen else f" by {of_bf16['isa']}"
    others = ", ".join(isa for isa in exam.isas if isa not in (chosen, of_bf16["isa"]))
    found = f"{chosen}, {fp32:.0f} GF/s a thread in fp32 and {bf16:.0f} in bf16{of_other}"
    found += f"; also {others}"
    if beyond := ", ".join(isa for isa, runnable in tables.items() if not runnable):
        found += f"; not on this machine: {beyond}"
    best = exam.isas[-1]
    pairs = zip(rates[best], rates[chosen], strict=True)
    if os.environ.get("LLMC_ISA") and any(other > CLEARLY * own for other, own in pairs):
        return Finding(State.WARNING, found, f"unset LLMC_ISA: {best} is faster")
    if machine.hidden_amx():
        return Finding(State.WARNING, f"{found}; this CPU has AMX, but the system hides it", NO_AMX)
    if machine.has_amx() and "amx" not in tables:
        lacks = f"{found}; this CPU has AMX, but this build has no table for it"
        return Finding(State.WARNING, lacks, NO_AMX_BUILT)
    return Finding(State.OK, found)


def _pytorch(_: Exam) -> Finding:
    compared = "'llmc bench --against torch' compares with it: eager in fp32, autocast in bf16"
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Finding(State.OK, f"not installed, and needed only where {compared}")
    return Finding(State.OK, f"{version}; {compared}")


def _parity(exam: Exam, *, dtype: str) -> Finding:
    known, (after_one, after_all) = known_answers(), ALLOWED[dtype]
    wrong: dict[str, str] = {}
    step, steps = [0.0], [0.0]
    with trial(exam.engine) as tried:
        for isa in exam.isas:
            try:
                first, last = distances(tried.answers(isa, dtype), known)
            except Interrupted:
                raise
            except LlmcError as error:
                wrong[isa] = str(error)
                continue
            off = _beyond(first, after_one, "after one step")
            off = off or _beyond(last, after_all, f"after {STEPS} steps")
            if off:
                wrong[isa] = off
            step, steps = [*step, *first.values()], [*steps, *last.values()]
    if not wrong:
        isas = ", ".join(exam.isas) or "the engine"
        found = (
            f"{isas}: {max(step):.0e} off PyTorch after a step ({after_one:.0e} allowed), "
            f"{max(steps):.0e} after {STEPS} ({after_all:.0e})"
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
    """Return a sentence about tensors that differ from PyTorch more than allowed, or nothing."""
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
            tried.check_same_bits(isa)
    *counts, last = map(str, THREADS)
    return Finding(State.OK, f"{', '.join(counts)} and {last} give the same bits")


def _files(exam: Exam) -> Finding:
    with trial(exam.engine) as tried:
        tried.check_round_trip()
    return Finding(State.OK, "checkpoints and tokens come back from the engine bit for bit")


def _mpi(exam: Exam) -> Finding:
    launch = exam.launch or mpi.local_launch()
    if launch is None:
        only = f"needed only for several ranks: {install_command('mpi')}"
        return Finding(State.OK, f"none found ({only})")
    seconds = mpi.SECONDS if exam.launch is None else mpi.CLUSTER_SECONDS
    try:
        told = mpi.try_ranks(exam.engine, launch, seconds)
    except Interrupted:
        raise
    except LlmcError as error:
        if exam.launch is not None:
            raise
        advice = (
            "only training on several ranks needs it; 'llmc doctor --launch COMMAND' tries another"
        )
        return Finding(State.WARNING, f"{launch.command[0]}: {error}", advice)
    found = f"{told.library} by {launch.command[0]}: {len(told.ranks)} ranks, "
    found += f"{1e-9 * told.rate:.2f} GB/s from each"
    found += "".join(f"; {each}" for each in told.machines) if exam.launch is not None else ""
    if exam.launch is not None and told.bound is not None:
        advice = (
            f"each rank may use 1 of {told.bound} cores, since the launcher binds it: "
            "mpirun --bind-to none lets it use all"
        )
        return Finding(State.WARNING, found, advice)
    return Finding(State.OK, found)


CHECKS: dict[str, Callable[[Exam], Finding]] = {
    "system": _system,
    "package": _package,
    "cpu": _cpu,
    "huge pages": _huge_pages,
    "cache": partial(
        _disk, place=lambda _: cache_dir(), elsewhere="set LLMC_CACHE_DIR to another folder"
    ),
    "workspace": partial(
        _disk,
        place=lambda exam: exam.workspace.root,
        elsewhere="choose another with --workspace",
    ),
    "compiler": _compiler,
    "engine": _build,
    "memory": _memory,
    "isa": _isa,
    **{f"parity {name}": partial(_parity, dtype=name) for name in ALLOWED},
    "threads": _threads,
    "files": _files,
    "mpi": _mpi,
    "pytorch": _pytorch,
}
