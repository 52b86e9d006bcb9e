"""What the machine says of itself is plausible, and a container's limit counts."""

from __future__ import annotations

import pytest

from llmc.engine import machine


def test_what_this_machine_says() -> None:
    assert machine.available_cores() >= 1
    assert machine.cpu_name().strip()
    total, available = machine.memory()
    assert 10**8 < total < 10**15
    assert available is None or 0 < available <= total
    assert machine.huge_pages() in (None, "always", "madvise", "never")


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   200000 kB\n",
        "/sys/fs/cgroup/memory.max": "100000000\n",
    }
    monkeypatch.setattr(machine, "_text", lambda path: files.get(path, ""))
    assert machine.memory() == (10**8, 10**8)
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert machine.memory()[1] == 200_000 * 1024


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


def test_a_machine_without_cpuinfo_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_text", lambda _: "")
    assert not machine.hidden_amx()
