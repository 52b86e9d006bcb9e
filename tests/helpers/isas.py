"""Instruction sets: all of them, and those that run on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.model import ModelConfig
from tests.helpers.engine import Flags, Native
from tests.helpers.models import save_model, save_tokens

SLOW_ISAS = ("plain", "generic")  # without vectors: they take several times as long
# As the engine lists them, worst first.
ALL_ISAS = (
    *("plain", "blas", "generic", "neon", "neonbf16", "bfmmla", "sme"),
    *("avx2", "avx512", "avx512bf16", "amxfp32", "amx"),
)


def isas_but_the_slow() -> list[Any]:
    """Return parameters of the fixture ``isa``: only make test-full takes the slow ones."""
    full = pytest.mark.full
    return [pytest.param(isa, marks=full) if isa in SLOW_ISAS else isa for isa in ALL_ISAS]


def runnable_isas(native: Native, scratch: Path) -> list[str]:
    """Return the instruction sets that this build has and this machine can run, worst first."""
    model, data = scratch / "probe.bin", scratch / "probe-tokens.bin"
    config = ModelConfig(layers=1, heads=1, channels=4, context=4, vocab_size=8)
    save_model(model, config)
    save_tokens(data, np.zeros(5, np.int64), 8)
    flags: Flags = {
        "model": model,
        "data": data,
        "batch_size": 1,
        "seq_len": 4,
        "steps": 0,
    }
    codes = {isa: native("train", isa=isa, **flags).returncode for isa in ALL_ISAS}
    assert set(codes.values()) <= {0, 2}, codes
    return [isa for isa, code in codes.items() if code == 0]


def chosen_for_floats(isas: list[str]) -> set[str]:
    """Return those of which fp32 takes the fastest: the best, a BLAS and SME where they run."""
    measured = {"blas", "sme"} & {*isas}
    return {*measured, [isa for isa in isas if isa not in measured][-1]}
