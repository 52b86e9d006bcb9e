"""What a person sees of a training run: a live view in a terminal, llm.c's lines in a pipe."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmc.train.curves import Line, Trace, chart, curve, moving_mean, sparkline
from llmc.train.metrics import Event, Metrics
from llmc.units import clock, megabytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

SAMPLE_LINES = 6
REDRAW_SECONDS, LONGEST_PAUSE = 0.1, 1.0
DRAWING_SHARE = 0.02  # of the time, at most: the cores are for training
CURVE_LINES = (5, 14)  # a lower one says no more than a sparkline
MEAN_OF = 30  # the curve is made of means of a thirtieth of it


@dataclass
class History:
    """The numbers of a run so far, as its events told them.

    Attributes:
        steps: that are to be made; None where only time or patience ends the run.
        flops_per_token: floating-point operations that training takes for a token; 0: not known.
        max_seconds: of training, over all resumes; 0: any.
        train: (step, training loss) pairs.
        val: (step, validation loss) pairs.
        start: the engine's first event: parameters, isa, threads, memory in bytes.
        last: the newest event about a training step.
        step_ms: how long each training step took, in milliseconds.
        speeds: tokens per second of each.
        sample: the newest sample, as text.
        saved_step: the step that was saved last, if any.
        before: training steps that were made before the run was resumed.
        skipped: how many of all steps had no update, as outliers.
        end: the engine's last event: why the run ended.
        drawn: the picture that was shown last has the losses as a chart.
    """

    steps: int | None
    flops_per_token: float = 0.0
    max_seconds: float = 0.0
    train: list[tuple[float, float]] = field(default_factory=list)
    val: list[tuple[float, float]] = field(default_factory=list)
    start: Event = field(default_factory=dict)
    last: Event = field(default_factory=dict)
    step_ms: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    sample: str = ""
    saved_step: int | None = None
    before: int = 0
    skipped: int = 0
    end: Event = field(default_factory=dict)
    drawn: bool = False

    def resume(self, earlier: Metrics, step: int) -> None:
        """Take in what a run told before ``step``, from which it goes on."""
        for event in [*earlier.train, *earlier.skipped, *earlier.val]:
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
            self.steps = event["steps"]
        elif event["event"] == "sample":
            self.sample = decode(event["tokens"])
        elif event["event"] == "saved":
            self.saved_step = event["step"]
        elif event["event"] == "skipped":
            self.skipped += 1
        elif event["event"] == "end":
            self.end = event

    @property
    def seconds_before(self) -> float:
        """How long the run had trained before it was resumed, in seconds."""
        return float(self.start.get("seconds", 0))

    @property
    def tokens_per_second(self) -> float:
        """The median over all steps so far; 0 before the first."""
        return statistics.median(self.speeds) if self.speeds else 0.0

    def curve(self, width: int = 76) -> str:
        """Draw both losses; the training loss as means of a thirtieth of it."""
        means = moving_mean(self.train, len(self.train) // MEAN_OF, 2 * width)
        return curve(means, self.val, width=width)


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
    if event["event"] == "skipped":
        return (
            f"step {event['step']}: update skipped (z-score {event['loss_z']:.2f} of the loss, "
            f"{event['grad_z']:.2f} of the gradient's norm)\n"
        )
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
    """Nothing, for ``--quiet``."""

    def update(self, event: Event, history: History) -> None:
        """Say nothing."""


class LiveView(PlainView):
    """A picture that is drawn over itself: progress, numbers, losses, the newest sample."""

    def __init__(self, console: Console, title: str) -> None:
        """Draw on ``console``, under ``title``."""
        from rich.live import Live

        self.console = console
        self.title = title
        self.began = time.monotonic()
        self.next_drawing = -math.inf
        self.size = console.size
        self.trace = Trace()
        self.history: History | None = None
        self.live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveView:
        """Take over the terminal."""
        self.live.start()
        return self

    def __exit__(self, *unused: object) -> None:
        """Leave the last picture standing."""
        if self.history is not None:
            self._fit()
            self.live.update(self.picture(self.history))
        self.live.stop()

    def update(self, event: Event, history: History) -> None:
        """Draw the picture anew, unless it was drawn just now: training must not wait for it."""
        self.history = history
        if (now := time.monotonic()) >= self.next_drawing:
            self._fit()
            self.live.update(self.picture(history), refresh=True)
            cost = time.monotonic() - now
            pause = min(max(REDRAW_SECONDS, cost / DRAWING_SHARE), LONGEST_PAUSE)
            self.next_drawing = now + pause

    def _fit(self) -> None:
        """Begin on an empty screen after the terminal has changed its size.

        It has broken the old picture's lines anew then, and nobody knows where that begins.
        """
        from rich.control import Control

        if self.console.size != self.size:
            self.size = self.console.size
            self.console.control(Control.clear(), Control.home())

    def picture(self, history: History) -> RenderableType:
        """Return the picture of a run: at most 80 columns are needed, up to 120 are used.

        It is never higher than the terminal, from 6 lines on. Where there is room, the losses are
        a chart with axes, else a sparkline; after that the sample loses lines, then the numbers.
        Two columns stay free for the ^C that a terminal shows where the cursor is, at the end of
        the last line: on a new line it would leave a piece of this picture above the next.
        """
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        width = min(self.console.width - len("^C"), 120)
        room = self.console.height - 1 - 2 - 1  # the cursor's line, the frame, the bar
        elapsed = time.monotonic() - self.began
        cells = _cells(history, elapsed)
        each = 4 if width >= 76 else 2
        rows = [cells[start : start + each] for start in range(0, len(cells), each)]
        rows = rows[: max(room - 1, 1)]
        room -= len(rows)
        parts: list[RenderableType] = [_bar(history, elapsed), _grid(rows)]
        sample = _printable(history.sample.strip("\n")).splitlines()[:SAMPLE_LINES]
        losses = self.losses(history, width - 4, room - len(sample))
        parts += losses[: max(room, 0)]
        room -= len(losses)
        if sample and room > 0:
            text = "\n".join(sample[:room])
            parts.append(Text(text, style="italic", overflow="ellipsis", no_wrap=True))
        return Panel(Group(*parts), title=Text(self.title), title_align="left", width=width)

    def losses(self, history: History, width: int, room: int) -> list[Text]:
        """Return the losses in ``room`` lines: a chart with two lines of axis, or one line."""
        from rich.text import Text

        means = self.trace.follow(history.train)
        lowest, highest = CURVE_LINES
        height = min(room - 2, highest)
        history.drawn = height >= lowest and len(means) > 1
        if not history.drawn:
            line = sparkline([loss for _, loss in means], width - 6)
            return [Text.assemble(("loss ", "dim"), (line, "cyan"))] if line else []
        picture = chart(
            [
                Line(
                    moving_mean(means, len(means) // MEAN_OF, 2 * width),
                    history.val,
                    style="cyan",
                    spot_style="bold yellow",
                )
            ],
            width=width,
            height=height,
            x_text="{:,.0f}".format,
            x_title="steps (● validation)" if history.val else "steps",
        )
        return [Text.assemble(*line) for line in picture]


def _bar(history: History, elapsed: float) -> RenderableType:
    """Return how far the run is, as a bar and in numbers: the nearer of its two ends."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    done, parts, said = _done(history), [0.0], []
    if history.steps is not None:
        parts.append(done / max(history.steps, 1))
        said.append(f"{done:,}/{history.steps:,} steps")
    else:
        said.append(f"{done:,} steps")
    if history.max_seconds:
        trained = history.seconds_before + elapsed
        parts.append(min(trained / history.max_seconds, 1))
        said.append(f"{clock(trained)} of {clock(history.max_seconds)}")
    bar.add_row(ProgressBar(total=1, completed=max(parts)), " · ".join(said))
    return bar


def _grid(rows: Sequence[Sequence[tuple[str, str]]]) -> RenderableType:
    """Return lines of numbers, under each other."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), expand=True)
    for _ in rows[0]:
        grid.add_column(ratio=1, no_wrap=True)
    for row in rows:
        grid.add_row(*(Text.assemble((f"{label} ", "dim"), value) for label, value in row))
    return grid


def _done(history: History) -> int:
    """Return how many updates the run has made; one that was resumed begins with some."""
    return int(history.last["step"]) + 1 if history.last else 0


def _cells(history: History, elapsed: float) -> list[tuple[str, str]]:
    """Return the numbers of the live view as (label, value) pairs, in rows of four."""
    last = history.last
    left = seconds_left(history, elapsed)
    cells = [
        ("train loss", f"{last['train_loss']:.4f}" if last else "–"),
        ("val loss", f"{history.val[-1][1]:.4f}" if history.val else "–"),
        ("tokens/s", f"{last['tokens_per_second']:,.0f}" if last else "–"),
        ("ETA", clock(left) if left is not None else "–"),
        ("grad norm", f"{last['grad_norm']:.3f}" if last else "–"),
        ("lr", f"{last['lr']:.2e}" if last else "–"),
        ("memory", megabytes(history.start.get("memory", 0))),
        ("took", clock(elapsed)),
    ]
    if (share := share_of_peak(history)) is not None:
        cells.append(("of peak", f"{share:.0%}"))
    if len(history.val) > 1:
        cells.append(("best val", f"{min(loss for _, loss in history.val):.4f}"))
    if history.saved_step is not None:
        cells.append(("saved", f"step {history.saved_step:,}"))
    if history.skipped:
        cells.append(("skipped", f"{history.skipped:,}"))
    return cells


def seconds_left(history: History, elapsed: float) -> float | None:
    """Return how long the run will last, to its last step or to the end of its time; None: unknown.

    ``elapsed`` is the time since it began, or was resumed, in seconds. An early stop may come
    before.
    """
    made = len(history.train) - history.before
    ends = []
    if history.steps is not None and made:
        ends.append((history.steps - _done(history)) * elapsed / made)
    if history.max_seconds:
        ends.append(history.max_seconds - history.seconds_before - elapsed)
    return max(min(ends), 0) if ends else None


def share_of_peak(history: History) -> float | None:
    """Return the part of the machine's multiplications that training uses, if the engine tells.

    The peak is what the engine measured as it began; the operations are those that ``llmc bench``
    counts.
    """
    peak = history.start.get("peak_flops")
    if not (history.last and peak and history.flops_per_token):
        return None
    return float(history.last["tokens_per_second"] * history.flops_per_token / peak)


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
