"""The machine's cores, CPU and memory."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmc.engine.process import Engine, run_quietly
from llmc.errors import Usage

MOST_THREADS = 256  # of the engine (POOL_MAX_THREADS)

# Generations of server CPUs, which a virtual machine names vaguely ("AMD EPYC"): vendor, family and
# models, as Linux groups them (arch/x86/kernel/cpu/amd.c, arch/x86/include/asm/intel-family.h).
_GENERATIONS = (
    ("AuthenticAMD", 0x17, ((0x30, 0x3F), (0x60, 0x7F), (0x90, 0xAF)), "Zen 2"),
    ("AuthenticAMD", 0x19, ((0x00, 0x0F), (0x20, 0x5F)), "Zen 3"),
    ("AuthenticAMD", 0x19, ((0x10, 0x1F), (0x60, 0xAF)), "Zen 4"),
    ("AuthenticAMD", 0x1A, ((0x00, 0x2F), (0x40, 0x4F), (0x60, 0x7F)), "Zen 5"),
    ("GenuineIntel", 6, ((0x55, 0x55),), "Skylake"),
    ("GenuineIntel", 6, ((0x6A, 0x6A), (0x6C, 0x6C)), "Ice Lake"),
    ("GenuineIntel", 6, ((0x8F, 0x8F),), "Sapphire Rapids"),
    ("GenuineIntel", 6, ((0xCF, 0xCF),), "Emerald Rapids"),
    ("GenuineIntel", 6, ((0xAD, 0xAE),), "Granite Rapids"),
)
_WITH_AMX = ("Sapphire Rapids", "Emerald Rapids", "Granite Rapids")


def available_cpus() -> int:
    """Return how many logical CPUs this process may keep busy: its affinity, its group's quota."""
    return max(1, int(min(len(_affinity()), _cpu_quota())))


class Threads(NamedTuple):
    """The threads of a training run."""

    most: int  # threads that the engine starts with; 0: as many as its machine has cores for it
    # The engine times its first steps with fewer threads too, and keeps the smallest number that is
    # as fast.
    fewer: bool = False

    @property
    def shown(self) -> str:
        """The number, or how each rank finds it."""
        return str(self.most or "one for each core of a rank's share of its machine")

    def flags(self) -> list[str]:
        """Return them as flags of the engine's ``train``."""
        return ["--threads", str(self.most), *(["--fewer-threads", "1"] if self.fewer else [])]


def other_load() -> float | None:
    """Return how many processes want to run, on average over a minute, if more than there are CPUs.

    In a container they are the host's, as the CPUs are.
    """
    try:
        load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):  # Windows has no such number
        return None
    return load if load > cpus else None


def training_threads(given: int | None, *, several: bool = False) -> Threads:
    """Return the threads of a training run: those given, or the default, which may become fewer.

    Of ``several`` ranks, which are on any machines, each finds its own number by default.

    Raises:
        Usage: ``OMP_NUM_THREADS`` is not a number of threads.
    """
    if given:
        return Threads(given)
    if several and (given == 0 or not os.environ.get("OMP_NUM_THREADS", "").strip()):
        return Threads(0)
    return Threads(default_threads(), fewer=not os.environ.get("OMP_NUM_THREADS", "").strip())


def default_threads() -> int:
    """Return the threads that the engine computes with unless a number is given.

    ``OMP_NUM_THREADS`` if it is set, else one per physical core, and no more than the CPU quota of
    the control group: threads wait for each other after every operation, so those that share a core
    or are throttled slow down all.

    Raises:
        Usage: ``OMP_NUM_THREADS`` is not a number of threads.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").strip()
    if wanted:
        first = wanted.split(",")[0].strip()  # the others are for nested regions
        if not (first.isascii() and first.isdecimal() and int(first)):
            raise Usage(
                f"OMP_NUM_THREADS is '{wanted}', which is not a number of threads: give "
                "--threads N, or unset it"
            )
        return min(int(first), MOST_THREADS)
    return min(_physical_cores(), available_cpus(), MOST_THREADS)


def _affinity() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [*range(os.cpu_count() or 1)]


def _physical_cores() -> int:
    """Return the physical cores among the CPUs that may be used; SMT siblings count once."""
    cpus = _affinity()
    if platform.system() == "Darwin":
        done = run_quietly(["sysctl", "-n", "hw.physicalcpu"])
        return int(done.output) if done.code == 0 and done.output.strip().isdecimal() else len(cpus)
    places = [f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in cpus]
    return len({_text(place).strip() or place for place in places})


def _cpu_quota() -> float:
    """Return the CPUs that the control groups of this process allow; infinity where none limits."""
    least = math.inf
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            roots = ["/sys/fs/cgroup"]
        elif "cpu" in controllers.split(","):
            roots = ["/sys/fs/cgroup/cpu", f"/sys/fs/cgroup/{controllers}"]
        else:
            continue
        path = Path(group)
        # A container may see its own group as the root: then only the root is found.
        for folder in {str(each).strip("/") for each in (path, *path.parents)}:
            for root in roots:
                least = min(least, _quota_of(f"{root}/{folder}".rstrip("/"), v2=controllers == ""))
    return least


def _quota_of(folder: str, *, v2: bool) -> float:
    """Return the quota of one control group over its period, in CPUs."""
    if v2:
        words = _text(f"{folder}/cpu.max").split()
    else:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [_text(f"{folder}/{name}").strip() for name in names]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return math.inf  # "max", -1, or no such file
    return int(words[0]) / int(words[1])


def instruction_sets(
    binary: Path, dtype: str = "fp32", *, rates: bool = False, preferred: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the events of ``llmc-native isa``: every kernel table, then the one for ``dtype`` here.

    With ``rates`` a table has what one thread multiplies: ``fp32_flops`` and ``bf16_flops``, per
    second. ``preferred`` is taken if it is among those of which the fastest is measured.

    Raises:
        LlmcError: the engine failed, or LLMC_ISA names one that cannot run; the tables come before.
    """
    argv = [str(binary), "isa", "--dtype", dtype, "--rates", str(int(rates))]
    with Engine([*argv, *(["--prefer-isa", preferred] if preferred else [])]) as engine:
        yield from engine.events()


def chosen_isa(binary: Path, dtype: str, preferred: str | None = None) -> str:
    """Return the instruction set that the engine multiplies ``dtype`` with on this machine.

    ``preferred`` is taken if it is among those of which the fastest is measured.

    Raises:
        LlmcError: the engine failed, or LLMC_ISA names one that cannot run.
    """
    *_, chosen = instruction_sets(binary, dtype, preferred=preferred)
    return str(chosen["isa"])


def cpu_name() -> str:
    """Return the name of the CPU model, or its architecture where the system gives no name.

    Its generation follows where that is known: ``AMD EPYC (Zen 4)``.
    """
    if platform.system() == "Darwin":
        done = run_quietly(["sysctl", "-n", "machdep.cpu.brand_string"])
        found = done.output.strip() if done.code == 0 else ""
    else:
        found = _cpu_info("model name")
    name, generation = found or platform.machine(), cpu_generation()
    return f"{name} ({generation})" if generation else name


def cpu_generation() -> str | None:
    """Return the generation of an x86 server's CPU by its family and model; None if unknown."""
    vendor, family, model = (_cpu_info(key) for key in ("vendor_id", "cpu family", "model"))
    if not (family.isdigit() and model.isdigit()):
        return None
    for maker, number, models, name in _GENERATIONS:
        known = any(low <= int(model) <= high for low, high in models)
        if (vendor, int(family)) == (maker, number) and known:
            return name
    return None


def cpu_identity() -> str:
    """Return the CPU's name and instruction sets; virtual CPUs have vague names."""
    return f"{cpu_name()} {_cpu_info('flags') or _cpu_info('Features')}"


def has_amx() -> bool:
    """Return whether this CPU has AMX and the system passes it on."""
    return "amx_tile" in _cpu_info("flags").split()


def hidden_amx() -> bool:
    """Return whether this CPU has AMX, and the system or the virtual machine hides it."""
    return cpu_generation() in _WITH_AMX and not has_amx()


def _cpu_info(key: str) -> str:
    """Return what Linux says of the first CPU under a key, empty where it says nothing."""
    match = re.search(rf"^{key}[ \t]*:[ \t]*(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else ""


class Memory(NamedTuple):
    """Memory in bytes: of the machine; and what a run may take, None where that is not known."""

    total: int
    available: int | None


def memory(binary: Path) -> Memory:
    """Return the machine's memory, and what the engine reads that it may take of it.

    The second respects the control groups of a container, and ``LLMC_MEMORY``.

    Raises:
        LlmcError: the engine failed, or LLMC_MEMORY is not a number.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with Engine([str(binary), "memory"]) as engine:
        (told,) = engine.events()
    return Memory(total, told["available"])


def huge_pages() -> str | None:
    """Return Linux's policy on transparent huge pages: always, madvise or never; None elsewhere."""
    match = re.search(r"\[(\w+)\]", _text("/sys/kernel/mm/transparent_hugepage/enabled"))
    return match[1] if match else None


def _text(path: str) -> str:
    """Return a file's text, empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
