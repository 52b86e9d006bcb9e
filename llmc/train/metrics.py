"""The numbers of a run: as its ``metrics.jsonl`` has them, while it is in progress, and its end.

Reading ends at the first malformed line, which is named. Half a line at the end is not damage: the
run may have been killed, or may be writing. A step that comes again replaces its earlier lines and
those of later steps, as a resumed run repeats them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llmc.config import MOST_STEPS, TrainConfig
from llmc.parsing import from_json
from llmc.units import seconds_of, typed_time

# What is measured at every training step, as metrics.jsonl names it.
MEASURED = ("train_loss", "lr", "grad_norm", "step_ms", "tokens_per_second")
LONGEST_LINE = 1 << 20
# The engine's reasons to end a run (native/train/stopping.c), and how `llmc runs` shows them.
STATES = {
    "steps": "finished",
    "tokens": "finished",
    "epochs": "finished",
    "time": "finished",
    "early-stop": "stopped early",
    "interrupted": "interrupted",
    "not-finite": "not finite",
}

Event = dict[str, Any]
Point = tuple[float, float]
P = TypeVar("P", bound=Point)


@dataclass
class Metrics:
    """What a metrics.jsonl holds."""

    # The training steps, in order. A step's numbers are those after that many updates.
    steps: list[int] = field(default_factory=list)
    # For every name in ``MEASURED`` one number per step; NaN where a step lacks it.
    measured: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in MEASURED}
    )
    val: list[tuple[int, float]] = field(default_factory=list)  # (step, validation loss) pairs
    # The standard error of the validation losses that have one, by step.
    val_errors: dict[int, float] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)  # the steps whose update was skipped
    end: Event | None = None  # the line about the end of the run; None if it runs or was killed
    lines: int = 0  # that were read
    cut: bool = False  # the last line is half a line
    problem: str | None = None  # what is wrong, as a sentence without its full stop

    @property
    def done(self) -> int:
        """How many updates were made; steps count from 0."""
        return self.steps[-1] + 1 if self.steps else 0

    def read(self, path: Path) -> None:
        """Read a metrics.jsonl.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    self.cut = True
                    break
                self.lines += 1
                if not self._take(line):
                    self.problem = f"line {self.lines:,} of {path.name} is not a measurement"
                    break

    def _take(self, line: bytes) -> bool:
        """Take in one line; return False for a line that no run writes."""
        try:
            event = from_json(line)
        except ValueError:
            return False
        if not isinstance(event, dict):
            return False
        kind = event.get("event")
        if kind == "end" and isinstance(event.get("reason"), str):
            self.end = event
            return True
        if "val_loss" in event:
            taken = self._take_step(event, ["val_loss"])
            if taken and (error := _number(event.get("val_error"))) is not None:
                self.val_errors[event["step"]] = error
            return taken
        if "train_loss" in event:
            return self._take_step(event, MEASURED)
        return self._take_step(event, []) if kind == "skipped" else kind != "end"

    def _take_step(self, event: Event, names: Sequence[str]) -> bool:
        step = count(event.get("step"))
        numbers = [_number(event.get(name, math.nan)) for name in names]
        if step is None or None in numbers:
            return False
        columns: list[list[Any]] = [self.skipped]
        row: list[Any] = [step]
        if names is MEASURED:
            columns, row = [self.steps, *self.measured.values()], [step, *numbers]
        elif names:
            columns, row = [self.val], [(step, *numbers)]
        start = bisect_left(columns[0], (step,) if columns[0] is self.val else step)
        for column, value in zip(columns, row, strict=True):
            column[start:] = [value]
        self.end = None  # the run went on
        return True


def lowest(points: Sequence[P], since: int) -> P | None:
    """Return the point with the lowest finite loss of those after step ``since``."""
    compared = (point for point in points if point[0] > since and math.isfinite(point[1]))
    return min(compared, key=lambda point: point[1], default=None)


def count(value: object) -> int | None:
    """Return ``value`` if it is a whole number from 0 to 2^63 - 1, else None."""
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, float) or type(value) is int else None
    except OverflowError:
        return None


@dataclass
class Progress:
    """The numbers of a run so far, collected from the engine's events."""

    steps: int | None  # the number to make; None if only time or patience ends the run
    run: str = ""  # the run's name
    tokens_per_step: int = 0  # tokens in one update
    # Floating-point operations that training takes for a token; 0: unknown.
    flops_per_token: float = 0.0
    max_seconds: float = 0.0  # the limit of the training time, over all resumes; 0: none
    train: list[Point] = field(default_factory=list)  # (step, training loss) pairs
    val: list[Point] = field(default_factory=list)  # (step, validation loss) pairs
    # The standard error of the validation losses that have one, by step.
    val_errors: dict[int, float] = field(default_factory=dict)
    # The newest validation losses of the texts of a mixture, in order.
    val_parts: list[float] = field(default_factory=list)
    # The engine's first event: parameters, isa, threads in use, memory in bytes.
    start: Event = field(default_factory=dict)
    last: Event = field(default_factory=dict)  # the newest event about a training step
    # Training time: the sum of all steps, without validation, samples and saving.
    seconds: float = 0.0
    sample: str = ""  # the newest sample, as text
    saved_step: int | None = None  # the step of the newest checkpoint, if any
    before: int = 0  # training steps made before the run was resumed
    val_since: int = -1  # the step at which the validation became another one; -1: never
    skipped: int = 0  # steps whose update was skipped as an outlier
    # Of the steps with several ranks: their seconds, and those in messages or waiting for others.
    shared_seconds: float = 0.0
    exchange_seconds: float = 0.0
    end: Event = field(default_factory=dict)  # the engine's last event: why the run ended

    @property
    def best_val(self) -> Point | None:
        """The step with the lowest validation loss, saved or not, and that loss."""
        return lowest(self.val, self.val_since)

    def resume(self, earlier: Metrics, step: int) -> None:
        """Take in what a run recorded before ``step``, from which it is resumed."""
        self.before = bisect_left(earlier.steps, step)
        for index in range(self.before):
            numbers = {name: column[index] for name, column in earlier.measured.items()}
            self.add({"step": earlier.steps[index], **numbers}, lambda _ids: "")
        # A step's validation comes before its checkpoint, its training after it.
        self.val += [point for point in earlier.val if point[0] <= step]
        self.val_errors |= earlier.val_errors
        self.skipped += sum(skipped < step for skipped in earlier.skipped)

    def add(self, event: Event, detokenize: Callable[[Sequence[int]], str]) -> None:
        """Take in one event; ``detokenize`` turns the ids of a sample into text."""
        if "train_loss" in event:
            self.train.append((event["step"], event["train_loss"]))
            self.last = event
            self.seconds += event["step_ms"] / 1e3
            if "exchange_ms" in event:
                self.shared_seconds += event["step_ms"] / 1e3
                self.exchange_seconds += event["exchange_ms"] / 1e3
        elif "val_loss" in event:
            self.val.append((event["step"], event["val_loss"]))
            if "val_error" in event:
                self.val_errors[event["step"]] = event["val_error"]
            self.val_parts = event.get("val_parts", [])
        elif event["event"] == "start":
            self.start = event
            self.steps = event["steps"]
            self.tokens_per_step = event.get("update_tokens", self.tokens_per_step)
        elif event["event"] == "planned":
            self.steps, self.max_seconds = event["steps"], 0.0
        elif event["event"] == "threads":
            self.start = {**self.start, "threads": event["threads"]}
        elif event["event"] == "sample":
            self.sample = detokenize(event["tokens"])
        elif event["event"] == "saved":
            self.saved_step = event["step"]
        elif event["event"] == "skipped":
            self.skipped += 1
        elif event["event"] == "end":
            self.end = event

    @property
    def done(self) -> int:
        """The number of updates made, those before a resume included."""
        return int(self.last["step"]) + 1 if self.last else 0

    @property
    def seconds_before(self) -> float:
        """The time counted towards ``max_seconds`` before the run was resumed, in seconds."""
        return float(self.start.get("seconds", 0))

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on over the training time; 0 before the first step."""
        return len(self.train) * self.tokens_per_step / self.seconds if self.seconds else 0.0

    @property
    def share_of_messages(self) -> float | None:
        """The part of the steps' time that went into messages; None of one process."""
        return self.exchange_seconds / self.shared_seconds if self.shared_seconds else None

    @property
    def share_of_peak(self) -> float | None:
        """The used part of the machine's floating-point peak, which the engine measures."""
        peak = self.start.get("peak_flops")
        if not (self.last and peak and self.flops_per_token):
            return None
        return float(self.tokens_per_second * self.flops_per_token / peak)


def ending(end: Event, settings: TrainConfig) -> str:
    """Return why a run has ended, as half a sentence."""
    steps = f"{end['step']:,} steps"
    times = "once" if settings.epochs == 1 else f"{settings.epochs:,} times"
    patience = "a validation" if settings.patience == 1 else f"{settings.patience:,} validations"
    reasons = {
        "steps": f"it made its {steps}",
        "tokens": f"it trained on {settings.max_tokens:,} tokens (--max-tokens), in {steps}",
        "epochs": f"it trained on all windows {times} (--epochs), in {steps}",
        "time": f"it trained for {settings.max_time} (--max-time), {steps}{_missed(end, settings)}",
        "early-stop": f"{patience} without improvement (--patience), after {steps}",
        "interrupted": f"it was interrupted after {steps}",
        "not-finite": f"its loss was not finite at step {end['step']:,}",
    }
    return reasons.get(end["reason"], f"for the reason '{end['reason']}'")


def _missed(end: Event, settings: TrainConfig) -> str:
    """Return what to add where the learning rate has not reached the end of its schedule."""
    planned = end.get("steps")
    if settings.schedule == "constant" or planned is None or end["step"] >= planned:
        return ""
    return f" of the {planned:,} of its {settings.schedule} schedule"


def further(end: Event, settings: TrainConfig) -> list[str]:
    """Return the flags with which ``llmc train --resume`` would continue an ended run.

    Empty if no flag helps: after an interrupt none is needed, and a loss that is not finite would
    come again.
    """
    flags: Mapping[str, tuple[str, object]] = {
        "time": ("--max-time", typed_time(2 * seconds_of(settings.max_time))),
        "early-stop": ("--patience", 2 * settings.patience),
        "tokens": ("--max-tokens", 2 * settings.max_tokens),
        "epochs": ("--epochs", settings.epochs + 1),
        "steps": ("--steps", min(max(2 * int(end["step"]), 1), MOST_STEPS)),
    }
    return [str(word) for word in flags.get(end["reason"], ())]
