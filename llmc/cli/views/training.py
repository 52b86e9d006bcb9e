"""How a training run is shown: a live view in a terminal, llm.c's lines in a pipe, a summary."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmc.cli.views.lines import plain_lines, precision, ranks_at_work
from llmc.paths import BEST, Workspace
from llmc.terminal import printable
from llmc.train.curves import Line, Trace, chart, curve, moving_mean, sparkline
from llmc.train.loop import TrainResult
from llmc.train.metrics import Event, Progress, ending
from llmc.train.ranks import memory_of, ranks_in
from llmc.units import clock, duration, megabytes, plus_minus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

SAMPLE_LINES = 6
REDRAW_SECONDS, LONGEST_PAUSE = 0.1, 1.0
DRAWING_SHARE = 0.02  # of the time, at most: the cores are for training
PIPE_SECONDS = 5.0  # between two lines about steps in a pipe
CURVE_COLUMNS = 76  # of the curve that follows a run
CURVE_LINES = (5, 14)  # a lower chart shows no more than a sparkline
LEAST_SAMPLE = 2  # lines that a chart leaves to the sample
GAP = 2  # between two columns of numbers
MEAN_OF = 30  # the curve is made of means over a thirtieth of the steps


class PlainView:
    """Lines on stdout. Lines about steps are at least some seconds, or ``log_every`` steps, apart.

    Attributes:
        has_chart: the losses stand on the screen as a chart.
    """

    has_chart = False

    def __init__(self, log_every: int = 0) -> None:
        self.log_every = log_every
        self.next_line = -math.inf

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *unused: object) -> None:
        """End; nothing is left to show."""

    def update(self, event: Event, progress: Progress) -> None:
        """Print an event's lines, if they are due."""
        if "train_loss" not in event or self._due(event["step"], progress):
            _write(plain_lines(event, progress))

    def _due(self, step: int, progress: Progress) -> bool:
        if progress.steps is not None and step + 1 == progress.steps:
            return True
        if self.log_every:
            return step % self.log_every == 0
        if (now := time.monotonic()) < self.next_line:
            return False
        self.next_line = now + PIPE_SECONDS
        return True


class SilentView(PlainView):
    """Nothing, for ``--quiet``."""

    def update(self, event: Event, progress: Progress) -> None:
        """Print nothing."""


class JsonView(PlainView):
    """The engine's events, one object a line, for ``--json``; the result follows."""

    def update(self, event: Event, progress: Progress) -> None:
        """Print an event as the engine printed it."""
        _write(json.dumps(event) + "\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class LiveView(PlainView):
    """A picture that is drawn over itself: progress, numbers, losses, the newest sample."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__()
        self.console = console
        self.began = time.monotonic()
        self.next_drawing = -math.inf
        self.size = console.size
        self.trace = Trace()
        self.progress: Progress | None = None
        self.live = Live(console=console, auto_refresh=False, transient=False)

    def __exit__(self, *unused: object) -> None:
        if self.progress is not None:
            self._fit()
            self.live.update(self.picture(self.progress))
            self.live.stop()

    def update(self, event: Event, progress: Progress) -> None:
        """Draw the picture again, unless it was just drawn: training must not wait for it."""
        if self.progress is None:
            self.began = time.monotonic()
            self.live.start()
        self.progress = progress
        if (now := time.monotonic()) >= self.next_drawing:
            self._fit()
            self.live.update(self.picture(progress), refresh=True)
            cost = time.monotonic() - now
            pause = min(max(REDRAW_SECONDS, cost / DRAWING_SHARE), LONGEST_PAUSE)
            self.next_drawing = now + pause

    def _fit(self) -> None:
        """Clear the screen after the terminal has changed its size.

        The terminal has wrapped the old picture's lines then, and its first line is lost.
        """
        from rich.control import Control

        if self.console.size != self.size:
            self.size = self.console.size
            self.console.control(Control.clear(), Control.home())

    def picture(self, progress: Progress) -> RenderableType:
        """Return the picture of a run, at most 120 columns wide and never higher than the terminal.

        The losses are a chart where there is room for one and for some of the sample, else a
        sparkline. The chart's height does not depend on the sample. Two columns stay free for the
        ^C that a terminal prints at the cursor, which is at the end of the last line.
        """
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        width = min(self.console.width - len("^C"), 120)
        room = self.console.height - 1 - 2 - 1  # the cursor's line, the frame, the bar
        elapsed = time.monotonic() - self.began
        cells = _cells(progress, elapsed)
        each = 4 if width >= 76 else 2
        rows = min(-(-len(cells) // each), max(room - 1, 1))
        room -= rows
        grid = _grid(cells[: rows * each], each, width - 4)
        parts: list[RenderableType] = [_bar(progress, elapsed), grid]
        losses = self.losses(progress, width - 4, room)
        parts += losses[: max(room, 0)]
        room -= len(losses)
        lines = printable(progress.sample.strip("\n"), keep="\n", instead=" ").splitlines()
        if lines and room > 0:
            text = "\n".join(lines[: min(room, SAMPLE_LINES)])
            parts.append(Text(text, style="italic", overflow="ellipsis", no_wrap=True))
        title = Text(
            " · ".join(filter(None, ["llmc train", progress.run, ranks_at_work(progress)]))
        )
        return Panel(Group(*parts), title=title, title_align="left", width=width)

    def losses(self, progress: Progress, width: int, room: int) -> list[Text]:
        """Return the losses as a chart with two lines of axis, or as one line.

        ``room`` is the number of lines for the losses and the sample.
        """
        from rich.text import Text

        means = self.trace.follow(progress.train)
        lowest, highest = CURVE_LINES
        room -= 2  # the axis
        self.has_chart = room >= lowest + LEAST_SAMPLE and len(means) > 1
        if not self.has_chart:
            line = sparkline([loss for _, loss in means], width - 6)
            return [Text.assemble(("loss ", "dim"), (line, "cyan"))] if line else []
        curve = moving_mean(means, len(means) // MEAN_OF, 2 * width)
        picture = chart(
            [Line(curve, progress.val, style="cyan", spot_style="bold yellow")],
            width=width,
            height=min(max(room - SAMPLE_LINES, lowest), highest),
            x_text="{:,.0f}".format,
            x_title="steps (● validation)" if progress.val else "steps",
        )
        return [Text.assemble(*line) for line in picture]


def _bar(progress: Progress, elapsed: float) -> RenderableType:
    """Return the progress as a bar and in numbers, towards the nearer of its two ends."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    parts, words = [0.0], f"{progress.done:,} steps"
    if progress.steps is not None:
        parts.append(progress.done / max(progress.steps, 1))
        words = f"{progress.done:,}/{progress.steps:,} steps"
    if progress.max_seconds:
        trained = progress.seconds_before + elapsed
        parts.append(min(trained / progress.max_seconds, 1))
        words += f" · {clock(trained)} of {clock(progress.max_seconds)}"
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_row(ProgressBar(total=1, completed=max(parts)), words)
    return bar


def _grid(cells: Sequence[tuple[str, str]], columns: int, width: int) -> RenderableType:
    """Return (label, value) pairs in rows, under each other; without errors where they do not fit.

    Columns share the width by their longest pair.
    """
    from rich.table import Table
    from rich.text import Text

    def longest(cells: Sequence[tuple[str, str]]) -> list[int]:
        sizes = [len(label) + 1 + len(value) for label, value in cells]
        return [max(sizes[column::columns], default=1) for column in range(columns)]

    if sum(longest(cells)) + GAP * (columns - 1) > width:
        cells = [(label, value.partition(" ± ")[0]) for label, value in cells]
    grid = Table.grid(padding=(0, GAP), expand=True)
    for size in longest(cells):
        grid.add_column(ratio=size, no_wrap=True)
    texts = [Text.assemble((f"{label} ", "dim"), value) for label, value in cells]
    for start in range(0, len(texts), columns):
        grid.add_row(*texts[start : start + columns])
    return grid


def _cells(progress: Progress, elapsed: float) -> list[tuple[str, str]]:
    """Return the numbers of the live view as (label, value) pairs."""
    last = progress.last
    left = seconds_left(progress, elapsed)
    cells = [
        ("train loss", f"{last['train_loss']:.4f}" if last else "–"),
        ("val loss", _val_loss(progress, progress.val[-1]) if progress.val else "–"),
        ("tokens/s", f"{progress.tokens_per_second:,.0f}" if last else "–"),
        ("ETA", clock(left) if left is not None else "–"),
        ("grad norm", f"{last['grad_norm']:.3f}" if last else "–"),
        ("lr", f"{last['lr']:.2e}" if last else "–"),
        ("memory", megabytes(memory_of(progress.start))),
        ("time", clock(progress.seconds)),
    ]
    if (share := progress.share_of_peak) is not None:
        cells.append(("of peak", f"{share:.0%}"))
    if len(progress.val) > 1 and (best := progress.best_val) is not None:
        cells.append(("best val", f"{best[1]:.4f}"))
    if progress.saved_step is not None:
        cells.append(("saved", f"step {progress.saved_step:,}"))
    if progress.skipped:
        cells.append(("skipped", f"{progress.skipped:,}"))
    return cells


def _val_loss(progress: Progress, point: tuple[float, float]) -> str:
    step, loss = point
    return plus_minus(loss, progress.val_errors.get(int(step)))


def seconds_left(progress: Progress, elapsed: float) -> float | None:
    """Return the seconds until the last step or the time limit, whichever is first; None: unknown.

    ``elapsed`` is the time in seconds since the run was started or resumed. Early stopping may end
    the run before.
    """
    made = len(progress.train) - progress.before
    ends = []
    if progress.steps is not None and made:
        ends.append((progress.steps - progress.done) * elapsed / made)
    if progress.max_seconds:
        ends.append(progress.max_seconds - progress.seconds_before - elapsed)
    return max(min(ends), 0) if ends else None


def choose_view(*, json: bool, quiet: bool, log_every: int = 0) -> PlainView:
    """Return the view that fits the flags and stdout."""
    if json:
        return JsonView()
    if quiet:
        return SilentView()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        return LiveView(Console(highlight=False))
    return PlainView(log_every)


def summary(workspace: Workspace, result: TrainResult, *, chart: bool) -> Iterator[str]:
    """Yield the lines printed after a run: the curve if ``chart``, the numbers, the files."""
    progress, shown = result.progress, workspace.shown
    if chart and len(progress.train) > 1:
        means = moving_mean(progress.train, len(progress.train) // MEAN_OF, 2 * CURVE_COLUMNS)
        yield "\nloss over steps (● validation)"
        yield curve(means, progress.val, width=CURVE_COLUMNS) + "\n"
    numbers = [f"train loss {result.train_loss:.4f}"] if result.train_loss is not None else []
    if result.val_loss is not None:
        numbers.append(f"val loss {plus_minus(result.val_loss, result.val_error)}")
    numbers.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    each = " a rank" if ranks_in(progress.start) else ""
    numbers.append(megabytes(memory_of(progress.start)) + each)
    yield f"{result.steps:,} steps in {duration(progress.seconds)}: {', '.join(numbers)}"
    if (ranks := ranks_at_work(progress)) is not None:
        yield ranks
    if result.bits_per_byte is not None:
        yield f"bits per byte: {plus_minus(result.bits_per_byte, result.bits_error)}"
    if parts := [f"{name} {loss:.4f}" for name, loss in result.val_parts.items()]:
        yield f"val loss by text: {', '.join(parts)}"
    settings = result.settings
    expected = result.steps > progress.before and not settings.bounded and not settings.patience
    if result.reason not in (None, "interrupted", "steps" if expected else None):
        yield f"ended: {ending(progress.end, settings)}"
    if progress.skipped:
        yield f"updates skipped: {progress.skipped:,}"
    if progress.start.get("dtype") == "bf16":
        yield f"dtype: {precision(progress.start)}"
    if result.checkpoint is not None:
        saved = "" if result.interrupted else f"saved {shown(result.checkpoint)}; "
        yield f"{saved}metrics in {shown(result.metrics)}"
        yield from offered(workspace, result)


def offered(workspace: Workspace, result: TrainResult) -> Iterator[str]:
    """Yield which weights a run that has saved some offers, and why."""
    step, last = result.offered_step, result.progress.saved_step
    assert result.offered is not None and step is not None and last is not None
    losses = dict(result.progress.val)

    def loss(step: float) -> str:
        return f" ({losses[step]:.4f})" if step in losses else ""

    best, best_loss = result.best_val or (step, math.inf)
    lower = best_loss < losses.get(step, math.inf)  # of weights that were not saved
    line = f"offered: {workspace.shown(result.offered)}, step {step:,}"
    if result.offered.name == BEST and not lower:
        yield f"{line}: lowest validation loss{loss(step)}"
    else:
        yield f"{line}, {'the last' if step == last else 'the best that was saved'}{loss(step)}"
    if step != last:
        yield f"--last uses step {last:,}{loss(last)}"
    if lower and best == 0:
        yield f"the weights that the run began with had a lower validation loss{loss(best)}:"
        yield "use those, or a smaller --lr"
    elif lower:
        yield f"step {best:,} had a lower validation loss{loss(best)}, but was not saved:"
        yield "--save-every STEPS or --patience saves it"
