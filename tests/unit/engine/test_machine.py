"""What the machine says of itself is plausible, and a container's limit counts."""

from __future__ import annotations

import os
import re

import pytest

from llmc.engine import machine
from llmc.engine.machine import Threads, default_threads, training_threads
from llmc.errors import Usage
from tests.helpers.engine import Native


def test_what_this_machine_says() -> None:
    assert 1 <= machine.default_threads() <= machine.MOST_THREADS
    assert 1 <= machine.available_cpus() <= (os.cpu_count() or 1)
    assert machine.cpu_name().strip()
    assert machine.huge_pages() in (None, "always", "madvise", "never")


def test_the_memory_is_what_the_engine_reads(
    native: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, available = machine.memory(native.binary)
    assert 10**8 < total < 10**15
    assert available is not None and 0 < available <= total
    monkeypatch.setenv("LLMC_MEMORY", "123456")
    assert machine.memory(native.binary)[1] == 123456
    monkeypatch.setenv("LLMC_MEMORY", "much")
    with pytest.raises(Usage, match="LLMC_MEMORY"):
        machine.memory(native.binary)


V1, V2 = "/sys/fs/cgroup/cpu/a/b", "/sys/fs/cgroup/a/b"
GROUPS = {"1": "5:memory:/x\n4:cpu,cpuacct:/a/b\n0::/\n", "2": "0::/a/b\n"}


@pytest.mark.parametrize(
    ("version", "files", "threads"),
    [
        ("1", {}, 8),
        ("1", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, 8),
        ("1", {f"{V1}/cpu.cfs_quota_us": "50000", f"{V1}/cpu.cfs_period_us": "100000"}, 1),
        ("1", {f"{V1}/cpu.cfs_quota_us": "300000", f"{V1}/cpu.cfs_period_us": "100000"}, 3),
        (
            "1",
            {
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ("2", {f"{V2}/cpu.max": "max 100000\n"}, 8),
        ("2", {f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ("2", {f"{V2}/cpu.max": "250000 100000\n"}, 2),
        ("2", {f"{V2}/cpu.max": "max 100000", "/sys/fs/cgroup/a/cpu.max": "400000 100000"}, 4),
        ("2", {"/sys/fs/cgroup/cpu.max": "600000 100000"}, 6),
        ("2", {f"{V2}/cpu.max": "9900000 100000\n"}, 8),
    ],
)
def test_a_cpu_quota_counts(
    version: str, files: dict[str, str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**files, "/proc/self/cgroup": GROUPS[version]}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(machine, "_text", lambda path: known.get(path, ""))
    monkeypatch.setattr(machine, "_affinity", lambda: [*range(8)])
    assert machine.default_threads() == machine.available_cpus() == threads


def test_siblings_of_a_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of CPUs 0 to 7, four cores of two; the process may use 0, 1, 2, 3 and 4."""

    def text(path: str) -> str:
        found = re.search(r"/cpu(\d+)/topology/thread_siblings_list$", path)
        return f"{int(found[1]) % 4},{int(found[1]) % 4 + 4}\n" if found else ""

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(machine, "_text", text)
    monkeypatch.setattr(machine, "_affinity", lambda: [0, 1, 2, 3, 4])
    assert (machine.default_threads(), machine.available_cpus()) == (4, 5)


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("2,4", 2), ("999", 256)])
def test_omp_num_threads_is_honoured(
    value: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert machine.default_threads() == threads


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(Usage, match="OMP_NUM_THREADS"):
        machine.default_threads()


def test_only_the_default_may_become_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert training_threads(3) == Threads(3)
    assert training_threads(3).flags() == ["--threads", "3"]
    assert training_threads(None) == Threads(default_threads(), fewer=True)
    assert training_threads(None).flags()[2:] == ["--fewer-threads", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert training_threads(None) == Threads(2)


def test_other_load_is_more_than_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for load, found in ((0.0, None), (4.0, None), (4.5, 4.5)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert machine.other_load() == found
    monkeypatch.delattr(os, "getloadavg")
    assert machine.other_load() is None


def test_a_cpu_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    monkeypatch.setattr(machine, "_text", lambda _: "processor: 0\nmodel name\t: Tube 9000\n")
    assert machine.cpu_name() == "Tube 9000"
    monkeypatch.setattr(machine, "_text", lambda _: "")
    assert machine.cpu_name() == "abacus"
    assert machine.huge_pages() is None


@pytest.mark.parametrize(
    ("vendor", "model", "flags", "hidden"),
    [
        ("GenuineIntel", 207, "avx512f", True),
        ("GenuineIntel", 207, "avx512f amx_tile amx_bf16", False),
        ("GenuineIntel", 106, "avx512f", False),
        ("AuthenticAMD", 207, "avx512f", False),
    ],
)
def test_amx_that_a_virtual_machine_hides(
    vendor: str, model: int, flags: str, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        f"vendor_id\t: {vendor}",
        "cpu family\t: 6",
        f"model\t\t: {model}",
        f"flags\t\t: {flags}",
    )
    monkeypatch.setattr(machine, "_text", lambda _: "\n".join(lines))
    assert machine.hidden_amx() is hidden
    assert machine.has_amx() is ("amx_tile" in flags)


@pytest.mark.parametrize(
    ("vendor", "family", "model", "generation"),
    [
        ("AuthenticAMD", 25, 1, "Zen 3"),  # Milan
        ("AuthenticAMD", 25, 17, "Zen 4"),  # Genoa
        ("AuthenticAMD", 26, 2, "Zen 5"),  # Turin
        ("GenuineIntel", 6, 207, "Emerald Rapids"),
        ("GenuineIntel", 25, 17, None),
        ("AuthenticAMD", 25, 255, None),
    ],
)
def test_the_generation_of_a_cpu_with_a_vague_name(
    vendor: str, family: int, model: int, generation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        f"vendor_id\t: {vendor}",
        f"cpu family\t: {family}",
        f"model\t\t: {model}",
        "model name\t: A CPU",
    )
    monkeypatch.setattr(machine, "_text", lambda _: "\n".join(lines))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert machine.cpu_generation() == generation
    assert machine.cpu_name() == (f"A CPU ({generation})" if generation else "A CPU")


def test_a_machine_without_cpuinfo_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_text", lambda _: "")
    assert not machine.hidden_amx()
