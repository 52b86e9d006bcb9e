"""The engine's laws: same bits, no allocation while training, honest sizes, losses and ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmc.paths import shipped_dir
from llmc.weights.checkpoint import read_header
from tests.helpers.engine import ALL_EVENTS, BATCH, Flags, Native, refused, succeeded
from tests.helpers.events import json_lines, steps_of, without_times
from tests.helpers.isas import ALL_ISAS, chosen_for_floats
from tests.helpers.models import RAGGED


def test_the_same_bits_for_any_number_of_threads(
    isa: str, native: Native, files: Flags, tmp_path: Path
) -> None:
    expected = None
    for threads in (1, 2, 3, 7):
        out = tmp_path / str(threads)
        flags: Flags = {**files, **BATCH, "val_every": 2, "sample_every": 2, "sample_tokens": 16}
        flags |= {"steps": 5, "lr": 1e-3, "out": out, "threads": threads, "events": "json"}
        done = succeeded(native("train", isa=isa, **flags))
        metrics = without_times((out / "metrics.jsonl").read_text())
        got = (metrics, without_times(done.stdout), (out / "model.bin").read_bytes())
        expected = expected or got
        assert got[0] == expected[0], threads
        assert got[1] == expected[1], threads
        assert got[2] == expected[2], threads
    assert expected is not None
    assert sum("train_loss" in line for line in expected[0]) == 5
    assert sum("val_loss" in line for line in expected[0]) == 4  # steps 0, 2, 4, and the end
    assert sum(line.get("event") == "sample" for line in expected[1]) == 2
    texts = {
        native("sample", isa=isa, model=files["model"], tokens=12, threads=threads).stdout
        for threads in (1, 2, 3, 7)
    }
    assert len(texts) == 1 and len(texts.pop().split()) == 12


def test_updating_within_backward_changes_no_bit(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    """A norm to clip by asks for all gradients at once; one never reached changes nothing else."""
    for recompute in (0, 1):
        outs = [tmp_path / f"{recompute}-{clip}" for clip in (0, 1e9)]
        for clip, out in zip((0, 1e9), outs, strict=True):
            flags: Flags = {**files, **BATCH, "steps": 5, "lr": 1e-3, "weight_decay": 0.1}
            flags |= {"recompute": recompute, "grad_clip": clip, "threads": 2, "out": out}
            succeeded(native("train", **flags))
        within, after = ((out / "model.bin").read_bytes() for out in outs)
        assert within == after
        metrics = [without_times((out / "metrics.jsonl").read_text()) for out in outs]
        assert metrics[0] == metrics[1]
        assert all(line["grad_norm"] > 0 for line in metrics[0] if "grad_norm" in line)


def test_the_plain_engine_is_small_and_every_file_is() -> None:
    lines = {
        path.name: len(path.read_text("utf-8").splitlines())
        for path in shipped_dir("native").rglob("*.[ch]")
    }
    assert lines["gpt2.c"] + lines["plain.c"] <= 1000
    assert len(lines) > 90 and max(lines.values()) <= 400, max(lines, key=lines.__getitem__)


def test_events_are_json_lines(native: Native, files: Flags, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags: Flags = {**files, **BATCH, **ALL_EVENTS, "steps": 2, "out": out, "events": "json"}
    lines = json_lines(succeeded(native("train", **flags)).stdout)
    kinds = [
        line.get("event") or next(iter(set(line) & {"train_loss", "val_loss"})) for line in lines
    ]
    # A checkpoint is told of when it is on the disk, which may be some steps later.
    saved = [line["step"] for line in lines if line.get("event") == "saved"]
    assert saved == [1, 2]
    once = ["train_loss", "val_loss", "sample"]
    told = [kind for kind in kinds if kind != "saved"]
    assert told == ["start", "val_loss", *once, *once, "end"]
    assert (lines[0]["steps"], lines[0]["threads"]) == (2, 1)
    step = next(line for line in lines if "train_loss" in line)
    assert list(step) == ["step", "train_loss", "lr", "grad_norm", "step_ms", "tokens_per_second"]
    metrics = json_lines((out / "metrics.jsonl").read_text())
    assert metrics == [line for line in lines if line.get("event") in (None, "end")]
    assert metrics.pop()["reason"] == "steps"
    assert all(len(line["tokens"]) == 16 for line in lines if line.get("event") == "sample")
    assert read_header(out / "model.bin").step == 2
    assert read_header(out / "model.bin").val_loss == np.float32(metrics[-1]["val_loss"])


def test_losses_have_every_digit(native: Native, files: Flags, tmp_path: Path) -> None:
    """The printed loss gives back the float32 that debug-state writes in binary."""
    out, state = tmp_path / "out", tmp_path / "state.bin"
    given: Flags = {"model": files["model"], "data": files["data"], **BATCH}
    succeeded(native("train", out=out, steps=1, shuffle=0, **given))
    succeeded(native("debug-state", out=state, **given))
    B, T, V = 3, 37, RAGGED.vocab_size
    loss = np.frombuffer(state.read_bytes(), "<f4", 1, 1024 + 8 * B * T + 4 * B * T * V)[0]
    printed = steps_of(out)[0]["train_loss"]
    assert np.float32(printed) == loss
    assert printed != round(printed, 6)


def test_a_run_keeps_its_instruction_set_where_another_might_be_measured(
    native: Native, isas: list[str], files: Flags
) -> None:
    *_, chosen = json_lines(succeeded(native("isa", dtype="bf16")).stdout)
    # From the last one on that multiplies floats alone; amxfp32 is taken only by its name.
    floats = max((isas.index(isa) for isa in ("avx512", "avx2", "neon") if isa in isas), default=-1)
    measured = {*isas[floats:]} - {"amxfp32"}
    for isa in (*isas, "abacus"):
        flags: Flags = {"dtype": "bf16", "prefer_isa": isa}
        start, *_ = json_lines(
            succeeded(native("train", **files, **BATCH, **flags, steps=1, events="json")).stdout
        )
        assert json_lines(succeeded(native("isa", **flags)).stdout)[-1]["isa"] == start["isa"]
        assert start["isa"] in {chosen["isa"], isa}
        assert (start["isa"] == isa) == (isa in measured)


def test_the_instruction_set_can_be_forced(native: Native, isas: list[str], files: Flags) -> None:
    flags: Flags = {**files, **BATCH, "steps": 1, "events": "json"}
    assert isas[0] == "plain" and "generic" in isas
    for isa in isas:
        start = json_lines(succeeded(native("train", isa=isa, **flags)).stdout)[0]
        assert start["isa"] == isa
    best = json_lines(succeeded(native("train", **flags)).stdout)[0]["isa"]
    assert best in chosen_for_floats(isas)
    for isa in ("abacus", *(set(ALL_ISAS) - set(isas))):
        message = refused(native("train", isa=isa, **flags), 2)
        assert f"LLMC_ISA={isa}" in message
        assert ("LLMC_BLAS" in message) == (isa == "blas")
