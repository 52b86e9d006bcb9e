"""The engine's ``eval``: every token once, PyTorch's losses, strict about rows and memory."""

from __future__ import annotations

import functools
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from llmc.check.torch_model import GPT2
from llmc.tokens.files import write_rows
from tests.helpers.engine import Flags, Native, build, build_sanitized, refused, succeeded
from tests.helpers.events import json_lines
from tests.helpers.models import RAGGED, random_tokens, save_model, save_tokens, some_tensors

V, CONTEXT = RAGGED.vocab_size, RAGGED.context
COUNT = 7 * CONTEXT + 14  # the last window is shorter than the others


@dataclass(frozen=True)
class Files:
    """A model whose sizes are multiples of nothing, and tokens."""

    model: Path
    data: Path
    tokens: NDArray[np.int64]

    @property
    def flags(self) -> Flags:
        return {"model": self.model, "data": self.data, "events": "json"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    tokens = random_tokens(COUNT, V)
    model = save_model(folder / "model.bin", RAGGED)
    return Files(model, save_tokens(folder / "tokens.bin", tokens, V), tokens)


@functools.cache
def twin() -> GPT2:
    return GPT2(RAGGED).double().load(some_tensors(RAGGED))


def torchs_losses(ids: NDArray[np.int64], T: int | None = None) -> NDArray[np.float64]:
    """Return the twin's losses of all tokens but the first, windows of T by themselves."""
    T = T or len(ids) - 1
    whole = (len(ids) - 1) // T
    parts = [] if whole * T == len(ids) - 1 else [torchs_losses(ids[whole * T :])]
    run = torch.from_numpy(ids[: whole * T + 1])
    with torch.no_grad():
        logits, _ = twin()(run[:-1].view(whole, T))
        losses = functional.cross_entropy(logits.flatten(0, 1), run[1:], reduction="none")
    return np.concatenate([losses.numpy(), *parts])


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [line for line in json_lines(succeeded(done).stdout) if line["event"] == "row"]


@pytest.mark.parametrize("seq_len", [None, 1, 16, 40])
def test_every_token_but_the_first_is_predicted_once_as_by_pytorch(
    seq_len: int | None, native: Native, files: Files
) -> None:
    T = seq_len or CONTEXT
    flags: Flags = {"seq_len": seq_len} if seq_len else {}
    rows = rows_of(native("eval", batch_size=3, threads=2, **files.flags, **flags))
    assert [row["row"] for row in rows] == list(range(len(rows)))
    places = [row["at"] + i for row in rows for i in range(len(row["losses"]))]
    assert places == list(range(1, COUNT))
    assert [len(row["losses"]) for row in rows[:-1]] == [T] * (len(rows) - 1)
    assert (COUNT - 1) % T in (len(rows[-1]["losses"]), 0)
    expected = torchs_losses(files.tokens, T)
    got = np.concatenate([row["losses"] for row in rows])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert abs(got.mean() / expected.mean() - 1) < 1e-6
    text = {**files.flags, **flags, "events": "text"}
    said = succeeded(native("eval", **text)).stdout.splitlines()[-1]
    assert said == f"loss {got.mean():.6f} over {COUNT - 1} tokens"


def test_threads_and_batches_change_no_bit(isa: str, native: Native, files: Files) -> None:
    for dtype in ("fp32", "bf16"):
        flags: Flags = {**files.flags, "dtype": dtype}
        expected = rows_of(native("eval", isa=isa, batch_size=1, **flags))
        for threads, B in ((1, 8), (2, 3), (3, 65536), (7, 2)):
            got = rows_of(native("eval", isa=isa, threads=threads, batch_size=B, **flags))
            assert got == expected, (threads, B)


def test_int8_predicts_what_decoding_would(isa: str, native: Native, files: Files) -> None:
    """Within half a percent of fp32's loss; the same bits for any threads and any batch."""
    exact = rows_of(native("eval", isa=isa, **files.flags))
    expected = rows_of(native("eval", isa=isa, dtype="int8", batch_size=1, **files.flags))
    assert [(row["row"], row["at"]) for row in expected] == [(r["row"], r["at"]) for r in exact]
    losses, others = (np.concatenate([row["losses"] for row in rows]) for rows in (exact, expected))
    assert len(others) == COUNT - 1 and not np.array_equal(losses, others)
    assert abs(others.mean() / losses.mean() - 1) < 0.005
    for threads, B in ((1, 8), (2, 3), (3, 64)):
        flags: Flags = {**files.flags, "dtype": "int8", "threads": threads, "batch_size": B}
        assert rows_of(native("eval", isa=isa, **flags)) == expected, (threads, B)
    start = json_lines(native("eval", isa=isa, dtype="int8", **files.flags).stdout)[0]
    assert start["dtype"] == "int8" and start["batch_size"] <= 64


def test_at_most_so_many_tokens(native: Native, files: Files) -> None:
    """Of everywhere, with PyTorch's losses of these windows; a validation is their mean."""
    for most in (1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 300, COUNT - 2, COUNT - 1, 10**12):
        rows = rows_of(native("eval", max_tokens=most, **files.flags))
        sizes = [len(row["losses"]) for row in rows]
        assert sum(sizes) == min(most, COUNT - 1)
        starts = [row["at"] - 1 for row in rows]
        ends = [at + size for at, size in zip(starts, sizes, strict=True)]
        gaps = np.diff(np.sort([0, *starts, *ends, COUNT - 1]))[::2]
        assert gaps.min() >= 0 and gaps.max() <= (COUNT - 1 - sum(sizes)) / len(rows) + 1
        for row, start, end in zip(rows, starts, ends, strict=True):
            theirs = torchs_losses(files.tokens[start : end + 1])
            assert np.allclose(row["losses"], theirs, rtol=0, atol=2e-5)
        train: Flags = {
            "data": files.data,
            "val_data": files.data,
            "model": files.model,
            "seq_len": 9,
        }
        done = native("train", steps=0, val_tokens=most, events="json", **train)
        (line,) = (line for line in json_lines(succeeded(done).stdout) if "val_loss" in line)
        mean = np.mean([loss for row in rows for loss in row["losses"]])
        assert abs(line["val_loss"] - mean) < 1e-7


def test_rows_are_predicted_from_where_they_say(
    native: Native, files: Files, tmp_path: Path
) -> None:
    table = [(0, 2, 1), (5, CONTEXT + 1, 1), (5, CONTEXT + 1, CONTEXT), (90, 12, 7)]
    table += [(91, 11, 6), (3, 20, 19), (COUNT - 9, 9, 3)]
    write_rows(tmp_path / "rows.bin", table)
    flags: Flags = {**files.flags, "rows": tmp_path / "rows.bin"}
    rows = rows_of(native("eval", batch_size=1, **flags))
    for (start, length, begin), row in zip(table, rows, strict=True):
        assert row["at"] == start + begin
        expected = torchs_losses(files.tokens[start : start + length])[begin - 1 :]
        np.testing.assert_allclose(row["losses"], expected, rtol=1e-5, atol=1e-5)
    for B in (2, 4, 7):  # what a row is filled up with, or stands beside, is nothing to it
        assert rows_of(native("eval", batch_size=B, threads=2, **flags)) == rows
    narrow = rows_of(native("eval", batch_size=1, dtype="int8", **flags))
    for B in (2, 7):
        assert rows_of(native("eval", batch_size=B, dtype="int8", **flags)) == narrow
    for row, other in zip(rows, narrow, strict=True):
        assert (row["at"], len(row["losses"])) == (other["at"], len(other["losses"]))
        np.testing.assert_allclose(other["losses"], row["losses"], rtol=0.05)
    flags["events"] = "text"
    lines = succeeded(native("eval", **flags)).stdout.splitlines()[-len(table) - 1 :]
    means = [np.mean(row["losses"]) for row in rows]
    counts = [len(row["losses"]) for row in rows]
    for i, (mean, count) in enumerate(zip(means, counts, strict=True)):
        assert lines[i] == f"row {i}: loss {mean:.6f} over {count} tokens"


@pytest.mark.parametrize("sanitize", [False, True])
def test_the_engine_trusts_no_rows(
    sanitize: bool, files: Files, tmp_path: Path, cache: Path
) -> None:
    native = build_sanitized(cache) if sanitize else build(cache)
    path = tmp_path / "rows.bin"
    write_rows(path, [(0, 5, 1), (5, CONTEXT + 1, 1)])
    good = path.read_bytes()
    flags: Flags = {**files.flags, "rows": path}
    assert len(rows_of(native("eval", **flags))) == 2

    def said(content: bytes) -> str:
        path.write_bytes(content)
        return refused(native("eval", **flags), 1)

    def row(*values: int) -> bytes:
        return good[:-12] + struct.pack("<3I", *values)

    most = 2**32 - 1
    assert "less than a header" in said(b"") and "less than a header" in said(good[:1023])
    assert "not a file of rows" in said(b"\1" + good[1:])
    assert "not a file of rows" in said(good[:4] + b"\2" + good[5:])
    assert "cut short" in said(good[:-1]) and "damaged" in said(good + b"\0")
    assert "cut short" in said(good[:8] + struct.pack("<I", most) + good[12:])
    assert "holds no rows" in said(good[:8] + bytes(1016))
    for values in ((0, 0, 0), (0, 5, 0), (0, 5, 5), (0, 5, most), (COUNT - 4, 5, 1), (most, 5, 1)):
        assert "not a piece of the" in said(row(*values))
    assert "not a piece of the" in said(row(0, most, 1))
    assert f"has {CONTEXT} positions" in said(row(0, CONTEXT + 2, 1))
    path.unlink()
    assert "there is no file" in refused(native("eval", **flags), 3)
    both: list[Flags] = [{"seq_len": 4}, {"max_tokens": 4}]
    for more in both:
        assert "leave out --seq-len" in refused(native("eval", **flags, **more), 2)


def test_the_engine_refuses_impossible_flags(native: Native, files: Files, tmp_path: Path) -> None:
    flags = files.flags
    assert "41 positions" in refused(native("eval", seq_len=42, **flags), 2)
    assert "--data FILE" in refused(native("eval", model=files.model), 2)
    assert "--events" in refused(native("eval", **{**flags, "events": "xml"}), 2)
    error = refused(native("eval", dtype="int8", batch_size=65, **flags), 2)
    assert "with --dtype int8 --batch-size is at most 64, not 65" in error
    one = save_tokens(tmp_path / "one.bin", np.array([3]), V)
    assert "holds 1 tokens" in refused(native("eval", **{**flags, "data": one}), 1)
    above = save_tokens(tmp_path / "above.bin", np.array([3, 4, V]), V + 1)
    assert f"holds token {V} at position 2" in refused(
        native("eval", **{**flags, "data": above}), 1
    )


def test_no_more_memory_is_taken_than_there_is(native: Native, files: Files) -> None:
    def started(limit: int, **flags: Any) -> dict[str, Any]:
        done = native("eval", env={"LLMC_MEMORY": str(limit)}, **files.flags, **flags)
        return json_lines(succeeded(done).stdout)[0]

    plenty = started(10**10, batch_size=8)
    alone = started(10**10, batch_size=1)
    assert plenty["batch_size"] == 8 and plenty["memory"] > alone["memory"]
    assert started(alone["memory"])["batch_size"] < started(10**10)["batch_size"]
    limit = {"LLMC_MEMORY": str(alone["memory"])}
    error = refused(native("eval", env=limit, batch_size=8, **files.flags), 2)
    assert re.search(r"needs [\d.]+ MB of memory, but only [\d.]+ MB are .*--batch-size \d", error)
    limit = {"LLMC_MEMORY": "1000000"}
    assert "use a smaller model" in refused(native("eval", env=limit, **files.flags), 2)


def test_a_loss_that_is_not_finite_has_its_own_code(
    native: Native, files: Files, tmp_path: Path
) -> None:
    tensors = some_tensors(RAGGED)
    tensors["lnfb"][3] = np.nan
    model = save_model(tmp_path / "nan.bin", RAGGED, tensors)
    done = native("eval", **{**files.flags, "model": model})
    assert "gives token 1 of" in done.stderr
    assert done.returncode == 5
