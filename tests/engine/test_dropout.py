"""Dropout: the same bits whatever the run is disturbed by, in training alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.check.debug_state import read_debug_state
from llmc.weights.checkpoint import read_checkpoint
from llmc.weights.state import MOMENTS_AT
from tests.helpers.engine import BATCH, Flags, Native, succeeded
from tests.helpers.events import steps_of, without_times
from tests.helpers.models import RAGGED, random_tokens, save_model, save_tokens, some_tensors
from tests.programs.torture import settings

ROWS = 3  # of an update


def trained(native: Native, out: Path, **flags: Any) -> tuple[bytes, bytes]:
    """Train with dropout; return the newest weights and moments."""
    succeeded(native("train", out=out, **{"dropout": 0.2, "sample_every": 0, **flags}))
    newest = max((out / "checkpoints").iterdir())
    state = (newest / "state.bin").read_bytes()
    return (newest / "model.bin").read_bytes(), state[MOMENTS_AT:]


def losses(out: Path, name: str) -> list[float]:
    return [
        line[name] for line in without_times((out / "metrics.jsonl").read_text()) if name in line
    ]


def test_the_same_bits_for_any_number_of_threads(
    isa: str, native: Native, files: Flags, tmp_path: Path
) -> None:
    for dtype in ("fp32", "bf16"):
        flags: Flags = {**files, **BATCH, "steps": 4, "lr": 1e-3, "dtype": dtype, "isa": isa}
        outs = [tmp_path / f"{dtype}{threads}" for threads in (1, 2, 3, 7)]
        found = [
            trained(native, out, threads=threads, **flags)
            for threads, out in zip((1, 2, 3, 7), outs, strict=True)
        ]
        assert all(each == found[0] for each in found)


def test_recomputed_activations_have_the_same_bits(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    """Whether all gradients are there at once, or one block's at a time."""
    flags: Flags = {**files, **BATCH, "steps": 5, "lr": 1e-3, "threads": 2}
    found = [
        trained(
            native, tmp_path / f"{recompute}-{clip}", recompute=recompute, grad_clip=clip, **flags
        )
        for recompute in (0, 1)
        for clip in (0, 1e9)
    ]
    assert all(each == found[0] for each in found)


def test_a_resumed_run_ends_like_an_uninterrupted_one(native: Native, tmp_path: Path) -> None:
    flags = {**settings(tmp_path, 8), "schedule": "constant"}
    calm = trained(native, tmp_path / "calm", **flags)
    trained(native, tmp_path / "torn", **{**flags, "steps": 3})
    torn = trained(native, tmp_path / "torn", resume=1, threads=3, recompute=1, **flags)
    assert torn == calm


def test_parts_of_a_batch_drop_what_the_batch_does(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    """The losses differ by rounding only; with another seed or without dropout by far more."""

    def told(name: str, **flags: Any) -> list[float]:
        given: Flags = {**files, "seq_len": 37, "steps": 3, "lr": 1e-3, **flags}
        trained(native, tmp_path / name, total_batch_size=ROWS * 37, **given)
        return losses(tmp_path / name, "train_loss")

    whole = told("whole", batch_size=ROWS, shuffle=0)
    assert told("parts", batch_size=1, shuffle=0) == pytest.approx(whole, rel=1e-6)
    for name, other in (
        ("seed", {"seed": 1}),
        ("none", {"dropout": 0}),
        ("less", {"dropout": 0.1}),
    ):
        distance = np.subtract(told(name, batch_size=ROWS, shuffle=0, **other), whole)
        assert np.abs(distance).min() > 1e-4, name


def test_every_update_drops_other_numbers(native: Native, files: Flags, tmp_path: Path) -> None:
    """With a rate of 0 the model stays as it is; only what is dropped changes the loss."""
    data = tmp_path / "constant.bin"
    raw = bytearray(Path(files["data"]).read_bytes())
    raw[1024:] = raw[1024:1026] * ((len(raw) - 1024) // 2)
    data.write_bytes(raw)
    flags: Flags = {**files, **BATCH, "data": data, "val_data": data, "lr": 0, "steps": 6}
    trained(native, tmp_path / "out", val_every=2, **flags)
    told = losses(tmp_path / "out", "train_loss")
    assert len(set(told)) == 6
    # Validation drops nothing: it is that of the unchanged model, each time.
    measured = losses(tmp_path / "out", "val_loss")
    trained(native, tmp_path / "without", val_every=2, dropout=0, **flags)
    assert set(measured) == set(losses(tmp_path / "without", "val_loss"))
    assert len(set(measured)) == 1
    assert len(set(losses(tmp_path / "without", "train_loss"))) == 1


def test_samples_drop_nothing(native: Native, files: Flags, tmp_path: Path) -> None:
    found = []
    for rate in (0, 0.5):
        out = tmp_path / str(rate)
        flags: Flags = {**files, **BATCH, "steps": 2, "lr": 0, "sample_every": 1, "dropout": rate}
        done = succeeded(native("train", out=out, events="json", **flags))
        events = [json.loads(line) for line in done.stdout.splitlines()]
        found.append([line["tokens"] for line in events if line.get("event") == "sample"])
    assert found[0] == found[1] and found[0]


def test_no_memory_is_taken_for_masks(native: Native, files: Flags) -> None:
    for more in ({}, {"recompute": 1}, {"dtype": "bf16"}):
        starts = [
            json.loads(
                succeeded(
                    native("train", events="json", steps=0, dropout=rate, **files, **BATCH, **more)
                ).stdout.splitlines()[0]
            )
            for rate in (0, 0.5)
        ]
        assert starts[0]["memory_parts"] == starts[1]["memory_parts"]


def test_the_mean_stays_and_so_many_are_dropped(native: Native, tmp_path: Path) -> None:
    """Seen in the gradient of the position embeddings, of a model whose blocks do nothing."""
    tensors = {name: np.zeros_like(x) for name, x in some_tensors(RAGGED).items()}
    tensors["wte"] = some_tensors(RAGGED)["wte"]
    for name in ("ln1w", "ln2w", "lnfw"):
        tensors[name] = np.ones_like(tensors[name])
    model = save_model(tmp_path / "model.bin", RAGGED, tensors)
    data = tmp_path / "data.bin"
    save_tokens(data, random_tokens(42, RAGGED.vocab_size), RAGGED.vocab_size)
    dropped = []
    for rate in (0.0, 0.25):
        for seed in range(20):
            out = tmp_path / "state.bin"
            flags: Flags = {"batch_size": 1, "seq_len": 41, "dropout": rate, "seed": seed}
            succeeded(native("debug-state", model=model, data=data, out=out, **flags))
            dropped.append((read_debug_state(out, RAGGED).gradients["wpe"] == 0).mean())
    assert not any(dropped[:20])
    assert np.mean(dropped[20:]) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 20 / 1640) ** 0.5)
    assert len(set(dropped[20:])) > 5


def test_a_run_of_which_everything_is_dropped_is_finite(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    rate = 1 - 2.0**-53
    trained(native, tmp_path / "out", **{**files, **BATCH, "steps": 2, "dropout": repr(rate)})
    assert all(np.isfinite(line["train_loss"]) for line in steps_of(tmp_path / "out"))
    assert read_checkpoint(tmp_path / "out" / "model.bin")
