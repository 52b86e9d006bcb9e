"""The number of ranks changes no bit: weights, moments and what a run tells of its updates."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmc.tokens.files import write_tokens
from tests.helpers.engine import Flags, Native, succeeded
from tests.helpers.models import RAGGED, random_tokens, training_files
from tests.helpers.mpi import launcher, launchers
from tests.programs.torture import Ending, ending

COMMON: Flags = {
    "batch_size": 3,
    "seq_len": 19,
    "lr": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.1,
    "val_every": 7,
    "sample_every": 9,
    "sample_tokens": 8,
    "save_every": 10,
    "patience": 1000,
}
VARIANTS: dict[str, Flags] = {
    "fp32": {"shares": 4},
    "bf16": {"shares": 4, "dtype": "bf16"},
    "8bit": {"shares": 4, "optimizer_state": "8bit", "grad_clip": 0.5},
    "bf16 state": {"shares": 3, "optimizer_state": "bf16", "recompute": 1},
    "muon": {"shares": 4, "optimizer": "muon", "grad_clip": 0.5},
    "bf16 exchange": {"shares": 4, "exchange_dtype": "bf16", "total_batch_size": 8 * 57},
    "small muon": {
        "shares": 2,
        "exchange_dtype": "bf16",
        "optimizer": "muon",
        "optimizer_state": "8bit",
        "dtype": "bf16",
    },
    "dropout": {"shares": 4, "dropout": 0.2, "total_batch_size": 8 * 57},
    "skip": {"shares": 4, "skip_loss_z": 1.0, "skip_grad_z": 1.0},
    "masks": {"shares": 4, "grad_clip": 1, "total_batch_size": 8 * 57},
    "everything": {
        "shares": 4,
        "dtype": "bf16",
        "optimizer_state": "8bit",
        "optimizer": "muon",
        "grad_clip": 0.5,
        "dropout": 0.1,
        "recompute": 1,
        "skip_loss_z": 1.0,
        "total_batch_size": 8 * 57,
    },
}


def masked(folder: Path) -> Flags:
    """Write tokens of which only some count, cut into conversations."""
    V, random = RAGGED.vocab_size, np.random.default_rng(5)
    files: Flags = {}
    for name, count in (("data", 3000), ("val_data", 600)):
        mask = (random.random(count) < 0.4).astype("u1")
        mask[random.random(count) < 1 / 30] |= 2
        mask[random.random(count) < 4 / 30] |= 4
        mask[0] = 6
        files[name] = folder / f"{name}-masked.bin"
        write_tokens(files[name], [(random_tokens(count, V), mask)], V, masked=True)
    return files


class Runs:
    """The runs of one variant, whose ends must be equal.

    They share an instruction set: that of bf16 is chosen by a measurement when a run starts, and
    another one rounds otherwise.
    """

    def __init__(
        self, native: Native, folder: Path, name: str, steps: int, isa: str | None = None
    ) -> None:
        self.native, self.out, self.isa = native, folder / "run", isa
        self.flags = {**training_files(folder, RAGGED), **COMMON, **VARIANTS[name], "steps": steps}
        if name in ("masks", "everything"):
            self.flags |= masked(folder)

    def end(self, mpi: str | None, ranks: int, threads: int) -> Ending:
        """Train with so many ranks, or without a launcher, and return what is left."""
        flags = {**self.flags, "threads": threads, "out": self.out}
        native, env = self.native, {}
        if mpi is not None:
            front = launcher(mpi, ranks)
            assert front is not None
            native, env = replace(native, emulator=front.argv), front.env
        succeeded(native("train", isa=self.isa, env=env, **flags))
        found = ending(self.out)
        shutil.rmtree(self.out)
        return found


@pytest.mark.parametrize("name", ["fp32", "small muon", "everything"])
def test_two_ranks_are_one_process(
    native: Native, isas: list[str], tmp_path: Path, name: str
) -> None:
    runs = Runs(native, tmp_path, name, 24, isas[-1])
    alone = runs.end(None, 1, 2)
    mpis = [found.name for found in launchers()]
    for mpi, threads in zip(mpis, (1, 2), strict=False):
        assert runs.end(mpi, 2, threads) == alone, (mpi, threads)
    if not mpis:
        pytest.skip("no mpirun is here")


@pytest.mark.full
@pytest.mark.parametrize("name", VARIANTS)
def test_any_ranks_and_threads_are_one_process(
    native: Native, isas: list[str], tmp_path: Path, name: str
) -> None:
    """200 updates, enough to fill the windows of the outliers."""
    runs = Runs(native, tmp_path, name, 200, isas[-1])
    alone = runs.end(None, 1, 1)
    skipped = sum(line.get("event") == "skipped" for line in alone.metrics)
    assert skipped > 0 or name != "skip"
    assert runs.end(None, 1, 3) == alone
    most = runs.flags["shares"]
    choices = itertools.product(
        range(1, most + 1), (1, 2, 3), [found.name for found in launchers()]
    )
    for ranks, threads, mpi in choices:
        assert runs.end(mpi, ranks, threads) == alone, (mpi, ranks, threads)
