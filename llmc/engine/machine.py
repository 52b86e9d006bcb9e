"""The machine's cores, CPU and memory."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmc.engine.process import Engine, run_quietly


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def instruction_sets(
    binary: Path, dtype: str = "fp32", *, rates: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the events of ``llmc-native isa``: every kernel table, then the one for ``dtype`` here.

    With ``rates`` a table has what one thread multiplies: ``fp32_flops`` and ``bf16_flops``, per
    second.

    Raises:
        LlmcError: the engine failed, or LLMC_ISA names one that cannot run; the tables come before.
    """
    with Engine([str(binary), "isa", "--dtype", dtype, "--rates", str(int(rates))]) as engine:
        yield from engine.events()


def chosen_isa(binary: Path, dtype: str) -> str:
    """Return the instruction set that the engine multiplies ``dtype`` with on this machine.

    Raises:
        LlmcError: the engine failed, or LLMC_ISA names one that cannot run.
    """
    *_, chosen = instruction_sets(binary, dtype)
    return str(chosen["isa"])


def cpu_name() -> str:
    """Return the name of the CPU model, or its architecture where the system gives no name."""
    if platform.system() == "Darwin":
        done = run_quietly(["sysctl", "-n", "machdep.cpu.brand_string"])
        found = done.output.strip() if done.code == 0 else ""
    else:
        match = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
        found = match[1].strip() if match else ""
    return found or platform.machine()


def cpu_identity() -> str:
    """Return the CPU's name and instruction sets; virtual CPUs have vague names."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return f"{cpu_name()} {match[1] if match else ''}"


def hidden_amx() -> bool:
    """Return whether this CPU has AMX, and the system or the virtual machine hides it.

    The models are those of Sapphire, Emerald and Granite Rapids (Linux, ``intel-family.h``).
    """
    info = _text("/proc/cpuinfo")
    found = {
        name: match[1] if (match := re.search(rf"^{name}\s*:\s*(.*)$", info, re.MULTILINE)) else ""
        for name in ("vendor_id", "cpu family", "model", "flags")
    }
    rapids = found["model"] in {"143", "207", "173", "174"} and found["cpu family"] == "6"
    intel = found["vendor_id"] == "GenuineIntel"
    return intel and rapids and "amx_tile" not in found["flags"].split()


class Memory(NamedTuple):
    """Memory in bytes; ``available`` is None where the system does not report it."""

    total: int
    available: int | None


def memory() -> Memory:
    """Return the memory of the machine, or of its container."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    match = re.search(r"^MemAvailable:\s*(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    available = int(match[1]) * 1024 if match else None
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        total = min(total, int(limit))
        available = None if available is None else min(available, total)
    return Memory(total, available)


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
