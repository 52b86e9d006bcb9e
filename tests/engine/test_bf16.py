"""``--dtype bf16``: as near to float64 as autocast, the same bits, loss curve, half the room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmc.check.tolerances import BF16_LOSS_CURVE, TIMES_AUTOCASTS
from llmc.model import ModelConfig
from llmc.weights.random import random_tensors
from tests.helpers.engine import Flags, Native, succeeded
from tests.helpers.events import json_lines, steps_of
from tests.helpers.models import (
    RAGGED,
    SMALL,
    random_tokens,
    save_model,
    save_tokens,
    training_files,
)

BATCHES = 4  # of one, chance moves a small tensor's distance by a third


@pytest.mark.parametrize("name", ["small", "ragged"])
def test_gradients_are_as_near_as_autocasts(
    isa: str, name: str, native: Native, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from tests.programs import parity

    whole = {"small": parity.small, "ragged": parity.ragged}[name]()
    batch = whole.train.batch_size * whole.train.seq_len
    found: dict[str, list[tuple[float, float]]] = {}  # ours and autocast's distances, by tensor
    for i in range(BATCHES):
        tokens = np.roll(whole.tokens, -i * batch)
        given = replace(whole, train=replace(whole.train, steps=1), tokens=tokens)
        folder = tmp_path / str(i)
        folder.mkdir()
        mine = parity.ours(given, native, folder, isa=isa, dtype="bf16").first
        mixed = parity.torchs(given, torch.float32, autocast=True).first
        exact = parity.torchs(given, torch.float64).first
        del mine["loss"], mixed["loss"], exact["loss"]
        for values in (mine, mixed, exact):
            values["all"] = np.concatenate([values[tensor].ravel() for tensor in sorted(values)])
        for tensor in exact:
            pair = [parity.distance(got[tensor], exact[tensor]) for got in (mine, mixed)]
            found.setdefault(tensor, []).append((pair[0], pair[1]))
    for tensor, pairs in found.items():
        own, theirs = np.sqrt(np.mean(np.square(pairs), axis=0))
        assert own <= (1 if tensor == "all" else TIMES_AUTOCASTS) * theirs, (tensor, own, theirs)
        assert own > 1e-4, f"{tensor} is too near to have been computed in bf16"


def run(native: Native, folder: Path, **flags: object) -> tuple[bytes, bytes, list[float]]:
    """Return the losses as lines, the weights and the losses of a run."""
    given: Flags = {"sample_every": 0, "val_every": 0, "out": folder, **flags}
    succeeded(native("train", **given))
    lines = steps_of(folder)
    losses = [line["train_loss"] for line in lines]
    return repr(losses).encode(), (folder / "model.bin").read_bytes(), losses


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    files = training_files(tmp_path_factory.mktemp("ragged"), RAGGED)
    del files["val_data"]
    return {**files, "batch_size": 3, "seq_len": 37, "steps": 4, "lr": 1e-3}


def test_the_same_bits_for_any_number_of_threads_and_with_recompute(
    isa: str, native: Native, ragged: Flags, tmp_path: Path
) -> None:
    for dtype in ("fp32", "bf16"):
        expected = None
        for threads, recompute in ((1, 0), (2, 0), (7, 0), (1, 1), (3, 1)):
            got = run(
                native,
                tmp_path / f"{dtype}-{threads}-{recompute}",
                isa=isa,
                dtype=dtype,
                threads=threads,
                recompute=recompute,
                **ragged,
            )
            expected = expected or got
            assert got[0] == expected[0], (dtype, threads, recompute)
            assert got[1] == expected[1], (dtype, threads, recompute)


def test_the_memory_of_activations(native: Native, tmp_path: Path) -> None:
    """bf16 stores 14 of 16 channels in half the room; recompute keeps one of them per layer."""
    config = ModelConfig(layers=6, heads=4, channels=64, context=64, vocab_size=512)
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", config),
        "data": save_tokens(tmp_path / "train.bin", random_tokens(9000, 512), 512),
        "batch_size": 16,
        "seq_len": 64,
        "steps": 0,
        "events": "json",
    }
    starts = {
        (dtype, recompute): json_lines(
            succeeded(native("train", dtype=dtype, recompute=recompute, **flags)).stdout
        )[0]
        for dtype in ("fp32", "bf16")
        for recompute in (0, 1)
    }
    row = 16 * 64 * config.channels  # of one activation as wide as the residual stream
    parts = {key: start["memory_parts"]["activations"] for key, start in starts.items()}
    saved_by_bf16 = parts["fp32", 0] - parts["bf16", 0]
    assert saved_by_bf16 == 2 * row * (14 * config.layers + 1)
    slack = 64 * 20  # every buffer starts at a cache line
    rows_of_layers = (15 * 4 * row + (4 + config.heads) * 4 * 16 * 64) * (config.layers - 1)
    assert abs(parts["fp32", 0] - parts["fp32", 1] - rows_of_layers) <= slack
    for dtype in ("fp32", "bf16"):
        saves = starts[dtype, 0]["memory"] - starts[dtype, 1]["memory"]
        assert starts[dtype, 0]["recompute_saves"] == starts[dtype, 1]["recompute_saves"] == saves


def test_it_says_how_bf16_is_multiplied(native: Native, tmp_path: Path) -> None:
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", SMALL),
        "data": save_tokens(tmp_path / "train.bin", random_tokens(300, 512), 512),
        "steps": 0,
        "dtype": "bf16",
    }
    start = json_lines(succeeded(native("train", isa="generic", events="json", **flags)).stdout)[0]
    assert (start["dtype"], start["multiplies_bf16"]) == ("bf16", False)
    told = succeeded(native("train", isa="generic", **flags)).stdout
    assert "dtype: bf16 (multiplied as floats: this CPU has no bf16)" in told
    refused = native("train", **{**flags, "dtype": "fp16"})
    assert refused.returncode == 2
    assert refused.stderr == "error: --dtype takes fp32 or bf16, not 'fp16'\n"


def test_the_loss_curve_follows_fp32s(
    native: Native, tinyshakespeare: Path, tmp_path: Path
) -> None:
    """300 steps from random weights on real text, byte by byte, in the same order."""
    config = ModelConfig(layers=3, heads=4, channels=128, context=64, vocab_size=256)
    tokens = np.frombuffer(tinyshakespeare.read_bytes()[:200_000], np.uint8).astype(np.int64)
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", config, dict(random_tensors(config, 1))),
        "data": save_tokens(tmp_path / "train.bin", tokens, 256),
        "steps": 300,
        "lr": 1e-3,
        "warmup": 30,
        "grad_clip": 1,
        "batch_size": 8,
        "seq_len": 64,
        "threads": 2,
    }
    fp32, bf16 = (
        run(native, tmp_path / dtype, dtype=dtype, **flags)[2] for dtype in ("fp32", "bf16")
    )
    assert fp32[-1] < 0.55 * fp32[0], "nothing was learnt"
    far = [abs(b / a - 1) for a, b in zip(fp32, bf16, strict=True)]
    assert max(far) <= BF16_LOSS_CURVE
    assert max(far) > 0
