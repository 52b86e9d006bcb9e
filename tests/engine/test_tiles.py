"""The laws and the oracles once more, of AMX's tables, where plain C stands for the tiles.

Few machines have tiles; this runs the whole engine with them on any CPU with AVX-512 and bf16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmc.engine.isas import ISAS
from llmc.engine.toolchain import BINARY, host_machine, zig
from tests.engine.test_bf16 import (
    ragged,
    test_gradients_are_as_near_as_autocasts,
    test_the_same_bits_for_any_number_of_threads_and_with_recompute,
)
from tests.engine.test_laws import test_the_same_bits_for_any_number_of_threads
from tests.helpers.engine import Native
from tests.helpers.isas import runnable_isas
from tests.helpers.programs import kept_programs
from tests.oracle.test_parity import test_a_step_and_ten_of_them

__all__ = [
    "ragged",
    "test_a_step_and_ten_of_them",
    "test_gradients_are_as_near_as_autocasts",
    "test_the_same_bits_for_any_number_of_threads",
    "test_the_same_bits_for_any_number_of_threads_and_with_recompute",
]

TABLES = ("amxfp32", "amx")

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(host_machine() != "x86_64", reason="AMX is of x86"),
]


@pytest.fixture(scope="module")
def native(cache: Path) -> Native:
    """Return an engine with tables of AMX that need no tiles."""
    lacks = frozenset(ISAS) - {"generic", *TABLES}
    compiler = replace(zig(), extra=("-DLLMC_TILES_MODEL",), lacks=lacks)
    return Native(kept_programs(cache, compiler=compiler, tests=False)[BINARY])


@pytest.fixture(params=TABLES)
def isa(request: pytest.FixtureRequest, native: Native, tmp_path: Path) -> str:
    """Return each table of AMX in turn."""
    name = str(request.param)
    if name not in runnable_isas(native, tmp_path):
        pytest.skip("the tables of AMX need AVX-512 and bf16, whatever stands for the tiles")
    return name
