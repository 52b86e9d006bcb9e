"""The other family's instruction set, compiled by zig and run by qemu's user mode emulation.

Compiling it takes minutes of two cores, so only ``make test-full`` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llmc.check.tolerances import FORWARD_AND_BACKWARD
from llmc.engine.toolchain import BINARY, host_machine, zig
from tests.helpers.engine import Flags, Native, build, succeeded
from tests.helpers.events import json_lines, without_times
from tests.helpers.models import RAGGED, training_files
from tests.helpers.programs import kept_programs

# Those of each family that qemu knows, best last: for AVX2, 7.2 is its first version.
MACHINE, ISAS = (
    ("x86_64", ("avx2",))
    if host_machine() == "aarch64"
    else ("aarch64", ("neon", "neonbf16", "bfmmla"))
)
QEMU = shutil.which(f"qemu-{MACHINE}") or shutil.which(f"qemu-{MACHINE}-static")
EMULATOR = (QEMU or "", "-cpu", "max")

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        QEMU is None,
        reason=f"the kernels of {MACHINE} are not tested: install qemu-user for its qemu-{MACHINE}",
    ),
]


@pytest.fixture(scope="module")
def foreign(cache: Path) -> dict[str, Path]:
    """The engine and the test programs of the other family, by name."""
    compiler = zig(f"{MACHINE}-linux-musl")
    return {
        **kept_programs(cache, compiler=compiler, tests=False),
        **kept_programs(cache, compiler=compiler),
    }


@pytest.mark.skipif(
    MACHINE == "x86_64",
    reason="qemu reads 16 bytes where a scalar FMA of x86 reads 4: over the ends of test buffers",
)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("program", ["test_kernels", "test_decode"])
def test_its_kernels_match_the_plain_loops(
    program: str, isa: str, foreign: dict[str, Path]
) -> None:
    """Some of all comparisons, chosen as if by dice: an emulated product takes its time."""
    done = subprocess.run(
        [*EMULATOR, foreign[program]],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "LLMC_TEST_ISA": isa, "LLMC_TEST_EVERY": "5"},
    )
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
    assert f"skipped {isa}:" not in done.stdout


@pytest.mark.skipif(MACHINE == "x86_64", reason="SME is of ARM")
@pytest.mark.parametrize("bytes_of_vector", [16, 32, 64, 128])
def test_outer_products_match_the_plain_loops(
    bytes_of_vector: int, foreign: dict[str, Path]
) -> None:
    """Blocks are as large as the CPU's streaming vectors make them."""
    done = subprocess.run(
        [
            QEMU or "",
            "-cpu",
            f"max,sme-default-vector-length={bytes_of_vector}",
            foreign["test_kernels"],
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "LLMC_TEST_ISA": "sme", "LLMC_TEST_EVERY": "20"},
    )
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout and "skipped sme:" not in done.stdout


@pytest.mark.skipif(MACHINE == "x86_64", reason="a table of ARM and another make the same bits")
def test_what_its_products_make_of_special_numbers(foreign: dict[str, Path]) -> None:
    """And that BFMMLA makes the bits of BFDOT: a CPU may take either."""
    done = subprocess.run(
        [*EMULATOR, foreign["test_floats"]],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
    assert not any(f"skipped {isa}:" in done.stdout for isa in ISAS)


def test_it_trains_as_the_host_does(foreign: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    flags: Flags = {
        **training_files(tmp_path, RAGGED, 600),
        "batch_size": 2,
        "seq_len": 37,
        "steps": 4,
        "val_every": 2,
        "lr": 1e-3,
        "events": "json",
    }

    def trained(
        native: Native, threads: int, out: Path, isa: str | None = None
    ) -> tuple[Path, str, str]:
        done = succeeded(native("train", threads=threads, out=out, isa=isa, **flags))
        return out, json_lines(done.stdout)[0]["isa"], (out / "metrics.jsonl").read_text()

    emulated = Native(foreign[BINARY], EMULATOR)
    # By name: what is fastest under an emulator says nothing, and may change.
    one, isa, metrics = trained(emulated, 1, tmp_path / "one", ISAS[-1])
    three, _, of_three = trained(emulated, 3, tmp_path / "three", ISAS[-1])
    assert isa == ISAS[-1]
    assert without_times(of_three) == without_times(metrics)
    assert (three / "model.bin").read_bytes() == (one / "model.bin").read_bytes()

    _, isa, of_host = trained(build(cache), 2, tmp_path / "host")
    assert isa not in ISAS
    for ours, hosts in zip(json_lines(metrics), json_lines(of_host), strict=True):
        for name in {"train_loss", "val_loss", "grad_norm"} & set(hosts):
            np.testing.assert_allclose(
                ours[name], hosts[name], rtol=FORWARD_AND_BACKWARD, err_msg=str(hosts)
            )
