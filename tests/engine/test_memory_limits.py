"""A run that does not fit into memory: refused before it takes any, with advice that works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmc.train.metrics import Event
from tests.helpers.dry_run import planned, rehearsed
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.events import json_lines
from tests.helpers.models import SMALL, save_model, training_files


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    """A model and enough tokens for large batches."""
    files = training_files(tmp_path_factory.mktemp("small"), SMALL, 10000)
    return {"model": files["model"], "data": files["data"], "seq_len": 64}


def test_memory_that_just_suffices_suffices(native: Native, small: Flags) -> None:
    needed = rehearsed(native, batch_size=8, **small)[0]["memory"]
    env = {"LLMC_MEMORY": str(needed)}
    succeeded(native("train", env=env, batch_size=8, steps=1, **small))
    env = {"LLMC_MEMORY": str(needed - 1)}
    assert "--batch-size" in refused(native("train", env=env, batch_size=8, steps=1, **small), 2)


def limits(native: Native, **flags: Any) -> Iterator[int]:
    """Yield what runs of a few sizes need, and a byte less and more."""
    for B in (1, 2, 5, 9, 14):
        memory = planned(native, 1 << 40, batch_size=B, **flags)[0]["memory"]
        yield from (memory - 1, memory, memory + 1)


def test_the_batch_size_advised_fits_and_the_next_does_not(native: Native, small: Flags) -> None:
    """With 8bit, so that this is not advised as well."""
    advised = set()
    small = {**small, "optimizer_state": "8bit"}
    for limit in limits(native, **small):
        start, error = planned(native, limit, batch_size=64, **small)
        found = re.search(r"; use (?:--recompute, or )?--batch-size (\d+)( or less)?$", error)
        if found is None:
            assert planned(native, limit, batch_size=1, **small)[1]
            continue
        B = int(found[1])
        assert bool(found[2]) == (B > 1)
        assert start["memory"] > limit == start["memory_available"]
        assert planned(native, limit, batch_size=B, **small)[0]["memory"] <= limit
        assert not planned(native, limit, batch_size=B, **small)[1]
        assert f"--batch-size {B}" in planned(native, limit, batch_size=B + 1, **small)[1]
        advised.add(B)
    assert len(advised) >= 4


@pytest.mark.parametrize(("B", "words"), [(1, "use "), (7, "use --batch-size 1 and ")])
def test_where_no_batch_fits_a_shorter_row_is_advised(
    B: int, words: str, native: Native, small: Flags, tmp_path: Path
) -> None:
    """With recompute and 8bit, so that these are not advised as well; long rows, that count."""
    config = replace(SMALL, layers=4, context=1024)
    long = {**small, "model": save_model(tmp_path / "long.bin", config), "seq_len": 1024}
    long |= {"recompute": 1, "optimizer_state": "8bit"}
    one = {**long, "batch_size": 1}
    limit = planned(native, 1 << 40, **one)[0]["memory"] - 1
    error = planned(native, limit, **{**long, "batch_size": B})[1]
    found = re.search(rf"; {words}--seq-len (\d+) or less$", error)
    assert found is not None, error
    T = int(found[1])
    assert not planned(native, limit, **{**one, "seq_len": T})[1]
    assert f"use --seq-len {T} or less" in planned(native, limit, **{**one, "seq_len": T + 1})[1]


def ways(error: str) -> list[Flags]:
    """Return the ways out that an error names, each with all of its flags."""
    advice = error.rsplit("; use ", 1)[1].replace(" or less", "")
    several = ", or " in advice
    parts = re.split(", or |, ", advice) if several else [advice]
    found = []
    for part in parts:
        flags = re.findall(r"--([a-z-]+)(?: (\w+))?", part.replace(" and", ""))
        found.append({name.replace("-", "_"): value or 1 for name, value in flags})
    return found


@pytest.mark.parametrize(
    "more", [{}, {"total_batch_size": 8 * 64}, {"total_batch_size": 48 * 64, "batch_size": 48}]
)
def test_every_way_out_that_is_advised_is_one(
    more: Flags, native: Native, small: Flags, tmp_path: Path
) -> None:
    """Of a batch that one (B, T) makes up, a smaller one keeps all gradients, and divides it."""
    config = replace(SMALL, layers=6)
    flags = {**small, "model": save_model(tmp_path / "six.bin", config), "batch_size": 8, **more}

    def planned_only(limit: int, **flags: Any) -> tuple[Event, str]:
        """Return the plan and the error; a run of no steps measures nothing."""
        env = {"LLMC_MEMORY": str(limit)}
        done = native("train", steps=0, events="json", env=env, **flags, val_every=0)
        return json_lines(done.stdout)[0], refused(done, 2) if done.returncode else ""

    whole = planned_only(1 << 40, **flags)[0]["memory"]
    seen = set()
    for share in [*range(99, 30, -3), *range(30, 2, -2)]:
        limit = whole * share // 100
        error = planned_only(limit, **flags)[1]
        if "use a smaller --model" in error:
            continue
        for way in ways(error):
            seen.add(tuple(way))
            start, still = planned_only(limit, **{**flags, **way})
            assert not still and start["memory"] <= limit, (error, way)
    assert {("recompute",), ("batch_size",)} <= seen
    assert any(way[:2] == ("recompute", "optimizer_state") for way in seen)
    assert any("optimizer_state" in way and "batch_size" in way for way in seen)


def test_where_no_row_fits_a_smaller_model_is_advised(native: Native, small: Flags) -> None:
    start, error = planned(native, 100_000, batch_size=4, **small)
    needed = -(-start["memory"] // 10_000) / 100
    assert error == (
        f"error: the run needs {needed:.2f} MB of memory, but only 0.10 MB are available; "
        "use a smaller --model, such as 'llmc export-weights random:PRESET' makes: "
        "docs/guide/recipes.md says what each preset takes"
    )
    assert "use a smaller --model" in planned(native, 0, batch_size=4, **small)[1]


@pytest.mark.parametrize("limit", ["8g", "-1", "1e9", " 5", "lots"])
def test_a_limit_that_is_no_number_is_refused(limit: str, native: Native, small: Flags) -> None:
    error = refused(native("train", env={"LLMC_MEMORY": limit}, steps=0, **small), 2)
    assert "LLMC_MEMORY is the number of bytes that a run may take, such as 80000" in error
    assert f"not '{limit}'" in error


def test_a_run_that_is_refused_takes_nothing_and_leaves_nothing(
    native: Native, small: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = native("train", env={"LLMC_MEMORY": "1000"}, out=out, events="json", **small)
    refused(done, 2)
    assert json_lines(done.stdout)[0]["memory_available"] == 1000
    assert not out.exists()
