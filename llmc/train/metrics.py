"""The reader of a run's ``metrics.jsonl``.

Reading ends at the first malformed line, which is named. Half a line at the end is no damage: the
run may have been killed, or may be writing. A step that comes again replaces its earlier lines and
those of later steps, as a resumed run repeats them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What is measured at every training step, as metrics.jsonl names it.
MEASURED = ("train_loss", "lr", "grad_norm", "step_ms", "tokens_per_second")
LONGEST_LINE = 1 << 20

Event = dict[str, Any]


@dataclass
class Metrics:
    """The lines of a metrics.jsonl by kind, in order.

    Attributes:
        train: those of training steps; each has a step and a training loss.
        val: those of validations; each has a step and a validation loss.
        skipped: those of steps whose update was skipped.
        end: the line about the end of the run; None if it is running or was killed.
        lines: the number of lines read.
        cut: the last line is half a line.
        problem: what is wrong, as a sentence without its full stop, or None.
    """

    train: list[Event] = field(default_factory=list)
    val: list[Event] = field(default_factory=list)
    skipped: list[Event] = field(default_factory=list)
    end: Event | None = None
    lines: int = 0
    cut: bool = False
    problem: str | None = None

    def column(self, name: str) -> list[float]:
        """Return one of ``MEASURED`` for every training step; NaN where a step lacks it."""
        return [float(event.get(name, math.nan)) for event in self.train]

    @property
    def done(self) -> int:
        """How many updates were made; steps count from 0."""
        return int(self.train[-1]["step"]) + 1 if self.train else 0

    @property
    def train_losses(self) -> list[tuple[int, float]]:
        """(step, training loss) pairs."""
        return [(event["step"], float(event["train_loss"])) for event in self.train]

    @property
    def val_losses(self) -> list[tuple[int, float]]:
        """(step, validation loss) pairs."""
        return [(event["step"], float(event["val_loss"])) for event in self.val]

    def take(self, line: bytes) -> bool:
        """Take in one line; return False for a line that no run writes."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(event, dict):
            return False
        if event.get("event") == "end" and isinstance(event.get("reason"), str):
            self.end = event
            return True
        for kind, into, numbers in (
            ("val_loss" in event, self.val, ["val_loss"]),
            ("train_loss" in event, self.train, MEASURED),
            (event.get("event") == "skipped", self.skipped, []),
        ):
            if kind:
                return self._take_step(event, into, numbers)
        return event.get("event") != "end"  # an event without a loss

    def _take_step(self, event: Event, into: list[Event], numbers: Sequence[str]) -> bool:
        step = count(event.get("step"))
        if step is None or not all(_is_number(event.get(name, math.nan)) for name in numbers):
            return False
        while into and into[-1]["step"] >= step:
            into.pop()
        into.append(event)
        self.end = None  # the run went on
        return True


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.jsonl.

    Raises:
        OSError: it cannot be read.
    """
    found = Metrics()
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                found.cut = True
                break
            found.lines += 1
            if not found.take(line):
                found.problem = f"line {found.lines:,} of {path.name} is no measurement"
                break
    return found


def count(value: object) -> int | None:
    """Return ``value`` if it is a whole number from 0 to 2^63 - 1, else None."""
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _is_number(value: object) -> bool:
    if type(value) not in (int, float):
        return False
    try:
        float(value)  # type: ignore[arg-type]
    except OverflowError:
        return False
    return True
