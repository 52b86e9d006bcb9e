"""A run that tries fewer threads in its first steps; test_threads.c tests the rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.engine import Flags, Native, succeeded
from tests.helpers.events import json_lines, without_times
from tests.helpers.models import RAGGED, training_files

GIVEN = 6


def trained(native: Native, out: Path, **flags: Any) -> tuple[bytes, list[dict[str, Any]]]:
    """Train; return the weights' bytes and the events."""
    done = succeeded(native("train", out=out, steps=60, events="json", **flags))
    return (out / "model.bin").read_bytes(), json_lines(done.stdout)


def test_the_number_changes_no_bit(native: Native, tmp_path: Path) -> None:
    flags: Flags = {
        **training_files(tmp_path, RAGGED),
        "batch_size": 2,
        "seq_len": 37,
        "val_every": 30,
    }
    weights, _ = trained(native, tmp_path / "one", threads=1, **flags)
    tried, events = trained(native, tmp_path / "six", threads=GIVEN, fewer_threads=1, **flags)
    assert tried == weights
    of_one, of_six = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "six"))
    assert without_times(of_six) == without_times(of_one)
    # Whether fewer are faster is up to the machine.
    chosen = [event for event in events if event.get("event") == "threads"]
    assert all(list(event) == ["event", "threads", "given"] for event in chosen)
    assert [event["given"] for event in chosen] == [GIVEN] * len(chosen)
    assert all(event["threads"] in (1, 3) for event in chosen) and len(chosen) <= 1


def test_a_rehearsal_tries_them_too(native: Native, tmp_path: Path) -> None:
    flags: Flags = {**training_files(tmp_path, RAGGED), "batch_size": 2, "seq_len": 37}
    done = succeeded(
        native("train", threads=GIVEN, fewer_threads=1, dry_run=1, events="json", **flags)
    )
    assert [event["event"] for event in json_lines(done.stdout)][-1] == "measured"


def test_a_number_that_was_given_stays(native: Native, tmp_path: Path) -> None:
    flags: Flags = {**training_files(tmp_path, RAGGED), "batch_size": 2, "seq_len": 37}
    _, events = trained(native, tmp_path / "out", threads=GIVEN, **flags)
    assert not [event for event in events if event.get("event") == "threads"]
