"""What the tests of dry runs share."""

from __future__ import annotations

from typing import Any

from llmc.train.metrics import Event
from tests.helpers.engine import Native, refused, succeeded
from tests.helpers.events import json_lines

PARTS = [
    "parameters", "gradients", "optimizer", "activations", "scratch", "buffers", "rounding"
]  # fmt: skip


def rehearsed(native: Native, **flags: Any) -> tuple[Event, Event]:
    """Return the two events of a dry run: the plan and the measurement."""
    done = succeeded(native("train", dry_run=1, events="json", **flags))
    start, measured = json_lines(done.stdout)
    assert (start["event"], measured["event"]) == ("start", "measured")
    return start, measured


def planned(native: Native, limit: int, **flags: Any) -> tuple[Event, str]:
    """Return the plan of a run that may take ``limit`` bytes, and the error or an empty text."""
    env = {"LLMC_MEMORY": str(limit)}
    done = native("train", dry_run=1, events="json", val_every=0, sample_every=0, env=env, **flags)
    error = refused(done, 2) if done.returncode else ""
    return json_lines(done.stdout)[0], error
