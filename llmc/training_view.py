"""What a person sees of a training run: a live view in a terminal, llm.c's lines in a pipe."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmc.curves import curve, smoothed, sparkline
from llmc.units import clock, megabytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Event = dict[str, Any]
SAMPLE_LINES = 6
REDRAW_SECONDS = 0.1


@dataclass
class History:
    """The numbers of a run so far, as its events told them.

    Attributes:
        train: (step, training loss) pairs.
        val: (step, validation loss) pairs.
        start: the engine's first event: parameters, isa, threads, memory in bytes.
        last: the newest event about a training step.
        step_ms: how long each training step took, in milliseconds.
        speeds: tokens per second of each.
        sample: the newest sample, as text.
        saved_step: the step that was saved last, if any.
        before: training steps that were made before the run was resumed.
    """

    steps: int
    train: list[tuple[float, float]] = field(default_factory=list)
    val: list[tuple[float, float]] = field(default_factory=list)
    start: Event = field(default_factory=dict)
    last: Event = field(default_factory=dict)
    step_ms: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    sample: str = ""
    saved_step: int | None = None
    before: int = 0

    def resume(self, earlier: Sequence[Event], step: int) -> None:
        """Take in what a run told before ``step``, from which it goes on."""
        for event in earlier:
            # A step's validation comes before its checkpoint, its training after it.
            if event["step"] < step + ("val_loss" in event):
                self.add(event, lambda _ids: "")
        self.before = len(self.train)

    def add(self, event: Event, decode: Callable[[Sequence[int]], str]) -> None:
        """Take in one event; ``decode`` turns the ids of a sample into text."""
        if "train_loss" in event:
            self.train.append((event["step"], event["train_loss"]))
            self.last = event
            self.step_ms.append(event["step_ms"])
            self.speeds.append(event["tokens_per_second"])
        elif "val_loss" in event:
            self.val.append((event["step"], event["val_loss"]))
        elif event["event"] == "start":
            self.start = event
        elif event["event"] == "sample":
            self.sample = decode(event["tokens"])
        elif event["event"] == "saved":
            self.saved_step = event["step"]

    @property
    def tokens_per_second(self) -> float:
        """The median over all steps so far; 0 before the first."""
        return statistics.median(self.speeds) if self.speeds else 0.0

    def curve(self, width: int = 76) -> str:
        """Draw both losses; the training loss as means, about one to a column of dots."""
        return curve(smoothed(self.train, 2 * width), self.val, width=width)


def precision(start: Event) -> str:
    """Return the type that linear layers multiply, and whether this CPU does so itself."""
    dtype = str(start["dtype"])
    if dtype == "bf16" and not start["multiplies_bf16"]:
        return "bf16, multiplied as floats: this CPU has no bf16 instructions"
    return dtype


def plain_lines(event: Event, history: History) -> str:
    """Return what a pipe is told of an event: the lines that llm.c prints."""
    if "train_loss" in event:
        return (
            f"step {event['step']}: train loss {event['train_loss']:.6f} "
            f"(took {event['step_ms']:.3f} ms)\n"
        )
    if "val_loss" in event:
        return f"val loss {event['val_loss']:.6f}\n"
    if event["event"] == "start":
        return (
            f"num_parameters: {event['parameters']}\n"
            f"memory: {megabytes(event['memory'])}\n"
            f"isa: {event['isa']}, threads: {event['threads']}, dtype: {precision(event)}\n"
        )
    if event["event"] == "sample":
        return f"generating:\n---\n{history.sample}\n---\n"
    return ""


class PlainView:
    """Lines on stdout, as each event comes."""

    def __enter__(self) -> PlainView:
        """Begin; nothing is shown yet."""
        return self

    def __exit__(self, *unused: object) -> None:
        """End; nothing is left to show."""

    def update(self, event: Event, history: History) -> None:
        """Print an event's lines."""
        sys.stdout.write(plain_lines(event, history))
        sys.stdout.flush()


class SilentView(PlainView):
    """Nothing, for ``--quiet`` and ``--json``."""

    def update(self, event: Event, history: History) -> None:
        """Say nothing."""


class LiveView(PlainView):
    """A picture that is drawn over itself: progress, losses, speed, the newest sample."""

    def __init__(self, console: Console, title: str) -> None:
        """Draw on ``console``, under ``title``."""
        from rich.live import Live

        self.console = console
        self.title = title
        self.began = time.monotonic()
        self.drawn = -math.inf
        self.history: History | None = None
        self.live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveView:
        """Take over the terminal."""
        self.live.start()
        return self

    def __exit__(self, *unused: object) -> None:
        """Leave the last picture standing."""
        if self.history is not None:
            self.live.update(self.picture(self.history))
        self.live.stop()

    def update(self, event: Event, history: History) -> None:
        """Draw the picture anew, unless it was drawn just now: training must not wait for it."""
        self.history = history
        if (now := time.monotonic()) - self.drawn >= REDRAW_SECONDS:
            self.drawn = now
            self.live.update(self.picture(history), refresh=True)

    def picture(self, history: History) -> RenderableType:
        """Return the picture of a run: at most 80 columns are needed, more are used."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = min(self.console.width, 120)
        done = len(history.train)
        numbers = Table.grid(padding=(0, 2), expand=True)
        for _ in range(4):
            numbers.add_column(ratio=1)
        cells = _cells(history, time.monotonic() - self.began)
        for row in range(0, len(cells), 4):
            numbers.add_row(*(Text.assemble((f"{k} ", "dim"), v) for k, v in cells[row : row + 4]))
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        bar.add_row(
            ProgressBar(total=max(history.steps, 1), completed=done),
            f"{done:,}/{history.steps:,} steps",
        )
        parts: list[RenderableType] = [bar, numbers]
        line = sparkline([loss for _, loss in history.train], width - 10)
        if line:
            parts.append(Text.assemble(("loss ", "dim"), (line, "cyan")))
        if history.sample:
            text = "\n".join(history.sample.strip("\n").splitlines()[:SAMPLE_LINES])
            parts.append(Text(_printable(text), style="italic", overflow="ellipsis", no_wrap=True))
        return Panel(Group(*parts), title=Text(self.title), title_align="left", width=width)


def _cells(history: History, elapsed: float) -> list[tuple[str, str]]:
    """Return the numbers of the live view as (label, value) pairs, in rows of four."""
    last = history.last
    done = len(history.train)
    made = done - history.before
    left = (history.steps - done) * elapsed / made if made else None
    return [
        ("train loss", f"{last['train_loss']:.4f}" if last else "–"),
        ("val loss", f"{history.val[-1][1]:.4f}" if history.val else "–"),
        ("tokens/s", f"{last['tokens_per_second']:,.0f}" if last else "–"),
        ("ETA", clock(left) if left is not None else "–"),
        ("grad norm", f"{last['grad_norm']:.3f}" if last else "–"),
        ("lr", f"{last['lr']:.2e}" if last else "–"),
        ("memory", megabytes(history.start.get("memory", 0))),
        ("took", clock(elapsed)),
    ]


def _printable(text: str) -> str:
    """Return ``text`` without what could move the cursor of a terminal."""
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)


def choose_view(*, silent: bool, title: str) -> PlainView:
    """Return the view that fits where stdout goes."""
    if silent:
        return SilentView()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        return LiveView(Console(highlight=False), title)
    return PlainView()
