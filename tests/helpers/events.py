"""Events of the engine: a JSON object a line, on stdout and in metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def steps_of(out: Path) -> list[dict[str, Any]]:
    """Return what a run told of its training steps."""
    lines = json_lines((out / "metrics.jsonl").read_text())
    return [line for line in lines if "train_loss" in line]


def without_times(text: str) -> list[dict[str, Any]]:
    """Return events without what may differ between two runs of the same training."""
    lines = json_lines(text)
    for line in lines:
        for name in ("step_ms", "exchange_ms", "tokens_per_second", "threads", "seconds"):
            line.pop(name, None)
        for name in ("peak_flops", "memory", "memory_parts", "memory_available", "recompute_saves"):
            line.pop(name, None)
    return lines
