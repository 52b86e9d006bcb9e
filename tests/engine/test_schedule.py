"""The learning rate of each step against PyTorch's schedulers; batches in parts, and whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from llmc.weights.checkpoint import read_checkpoint
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.events import steps_of
from tests.helpers.models import RAGGED, training_files

STEPS, LR = 23, 0.004


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    made = training_files(tmp_path_factory.mktemp("schedule"), RAGGED)
    return {"model": made["model"], "data": made["data"], "sample_every": 0}


def trained(native: Native, files: Flags, out: Path, **flags: Any) -> list[dict[str, Any]]:
    """Train; return the metrics of each step."""
    succeeded(native("train", out=out, **files, **flags))
    return steps_of(out)


def rates(native: Native, files: Flags, out: Path, **flags: Any) -> list[float]:
    """Return the learning rate of each of STEPS steps."""
    flags = {"steps": STEPS, "batch_size": 1, "seq_len": 2, "lr": LR, **flags}
    return [line["lr"] for line in trained(native, files, out, **flags)]


def torchs(make: Callable[[Any], Any], steps: int = STEPS) -> list[float]:
    """Return what a scheduler makes of LR."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def warmed(after: Callable[[Any], Any], warmup: int) -> Callable[[Any], Any]:
    """Return a scheduler that first rises in ``warmup`` equal parts."""

    def make(optimizer: Any) -> Any:
        rise = schedulers.LinearLR(optimizer, 1 / warmup, 1, total_iters=warmup - 1)
        return schedulers.SequentialLR(optimizer, [rise, after(optimizer)], milestones=[warmup])

    return make


def cosine(optimizer: Any, steps: int, least: float) -> Any:
    return schedulers.CosineAnnealingLR(optimizer, T_max=steps, eta_min=least * LR)


def linear(optimizer: Any, steps: int, least: float) -> Any:
    return schedulers.LinearLR(optimizer, 1, least, total_iters=steps)


@pytest.mark.parametrize("least", [0, 0.1, 1])
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_rates_are_those_of_pytorch(
    name: str, least: float, native: Native, files: Flags, tmp_path: Path
) -> None:
    torchs_own = {"cosine": cosine, "linear": linear}[name]
    flags = {"schedule": name, "lr_final": least}
    expected = torchs(lambda optimizer: torchs_own(optimizer, STEPS, least))
    assert rates(native, files, tmp_path / "a", **flags) == pytest.approx(expected, rel=1e-6)
    expected = torchs(warmed(lambda optimizer: torchs_own(optimizer, STEPS - 5, least), 5))
    warm = rates(native, files, tmp_path / "b", **flags, warmup=5)
    assert warm == pytest.approx(expected, rel=1e-6)
    assert warm[4] == pytest.approx(LR)


def test_constant_stays_and_wsd_sinks_at_the_end(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    constant = rates(native, files, tmp_path / "a", warmup=4, lr_final=0.5)
    assert constant == pytest.approx([LR / 4, LR / 2, LR * 3 / 4] + [LR] * (STEPS - 3))
    wsd = rates(native, files, tmp_path / "b", schedule="wsd", decay=0.3, warmup=2, lr_final=0.1)
    first = STEPS - round(0.3 * STEPS)
    assert wsd[0] == pytest.approx(LR / 2) and wsd[1 : first + 1] == pytest.approx([LR] * first)
    sinking = [1 - math.sqrt(i / (STEPS - first)) for i in range(STEPS - first)]
    assert wsd[first:] == pytest.approx([LR * (0.1 + 0.9 * x) for x in sinking])
    none = rates(native, files, tmp_path / "c", schedule="wsd", decay=0)
    assert none == pytest.approx([LR] * STEPS)


TOO_SHORT = (
    ({"warmup": STEPS + 1}, f"has {STEPS} updates (--steps): the rate would never reach --lr"),
    ({"warmup": STEPS, "schedule": "cosine"}, f"--warmup {STEPS - 1} or less"),
    ({"warmup": STEPS, "schedule": "linear"}, f"--warmup {STEPS - 1} or less"),
    (
        {"warmup": 20, "schedule": "wsd", "decay": 0.2},
        "less than the 5 updates that --schedule wsd",
    ),
    ({"warmup": 9, "max_tokens": 16, "steps": 100}, "has 8 updates (--max-tokens)"),
    ({"warmup": 9000, "epochs": 2, "steps": 10**8}, "(--epochs)"),
)


@pytest.mark.parametrize(("flags", "words"), TOO_SHORT)
def test_a_schedule_that_cannot_reach_its_end_is_refused(
    flags: Flags, words: str, native: Native, files: Flags, tmp_path: Path
) -> None:
    """Whatever limits the run; a resumed one that an older version began keeps its schedule."""
    flags = {"steps": STEPS, "batch_size": 1, "seq_len": 2, **files, **flags}
    assert words in refused(native("train", **flags), 2)
    assert words in refused(native("train", dry_run=1, **flags), 2)
    changed: Flags = {"resume": 1, "new_schedule": 1, "out": tmp_path / "out"}
    assert words in refused(native("train", **flags, **changed), 2)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "wsd"])
def test_an_old_schedule_that_never_ends_goes_on(
    name: str, native: Native, files: Flags, tmp_path: Path
) -> None:
    flags: Flags = {"schedule": name, "warmup": 50, "resume": 1}
    found = rates(native, files, tmp_path / name, **flags)
    assert found == pytest.approx([LR * (i + 1) / 50 for i in range(STEPS)])


def test_a_schedule_that_just_fits_is_accepted(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    assert rates(native, files, tmp_path / "a", warmup=STEPS)[-1] == pytest.approx(LR)
    wsd = rates(native, files, tmp_path / "b", schedule="wsd", warmup=18, decay=0.2)
    assert wsd[17] == wsd[18] == max(wsd)
    succeeded(native("train", steps=0, warmup=5, schedule="cosine", seq_len=2, **files))


def test_a_wrong_schedule_is_refused(native: Native, files: Flags, tmp_path: Path) -> None:
    for flags, words in (
        ({"schedule": "cosin"}, "--schedule takes constant, cosine, linear or wsd, not 'cosin'"),
        ({"lr_final": 1.5}, "--lr-final must be between 0 and 1, not 1.5"),
        ({"decay": -1}, "--decay must be between 0 and 1"),
        ({"total_batch_size": 100, "batch_size": 2, "seq_len": 16}, "not a multiple of 2 x 16"),
    ):
        assert words in refused(native("train", out=tmp_path / "out", **files, **flags), 2)


@pytest.mark.parametrize("shuffle", [0, 1])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_batch_in_parts_is_the_whole_batch(
    shuffle: int, dtype: str, native: Native, files: Flags, tmp_path: Path
) -> None:
    """The same windows, whatever B is; the sums differ in the order of rounding alone."""
    common: Flags = {"steps": 6, "seq_len": 17, "lr": 1e-3, "grad_clip": 0.5, "weight_decay": 0.1}
    common |= {"shuffle": shuffle, "dtype": dtype}
    runs = {}
    for B in (6, 3, 2, 1):
        out = tmp_path / str(B)
        total = 0 if B == 6 else 6 * 17
        lines = trained(
            native, files, out, batch_size=B, total_batch_size=total, threads=2, **common
        )
        runs[B] = (lines, read_checkpoint(out / "model.bin")[1])
    whole, weights = runs.pop(6)
    for B, (lines, parts) in runs.items():
        for key in ("train_loss", "grad_norm", "lr"):
            got, expected = ([line[key] for line in each] for each in (lines, whole))
            assert got == pytest.approx(expected, rel=1e-5 if dtype == "fp32" else 2e-3), (B, key)
        for name, values in parts.items():
            # AdamW turns a gradient near zero into a step of full size, whatever its rounding; that
            # of the keys' bias is zero but for rounding.
            near = np.abs(values - weights[name]) < (2e-5 if dtype == "fp32" else 2e-3)
            assert name == "qkvb" or near.mean() > 0.999, (B, name)


def test_parts_are_the_same_bits_for_any_number_of_threads(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    flags: Flags = {"steps": 4, "seq_len": 17, "lr": 1e-3, "batch_size": 2, "recompute": 1}
    flags |= {"total_batch_size": 2 * 17 * 3}
    saved = set()
    for threads in (1, 2, 5):
        trained(native, files, tmp_path / str(threads), threads=threads, **flags)
        saved.add((tmp_path / str(threads) / "model.bin").read_bytes())
    assert len(saved) == 1
