"""Curves of runs: what is drawn, in the terminal or as a picture by matplotlib."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmc.errors import BadData, Usage
from llmc.installation import install_command
from llmc.paths import cache_dir, written_whole
from llmc.terminal import printable
from llmc.train.curves import Line, Picture, chart, drawable, extremes, moving_mean
from llmc.train.history import RunHistory
from llmc.train.metrics import Point
from llmc.units import short

Dash = Literal["-", "--", "-.", ":"] | tuple[float, tuple[float, ...]]
Metric = Literal["loss", "grad_norm", "lr", "tokens_per_second"]
Axis = Literal["steps", "tokens", "time"]

# A metric's name in metrics.jsonl, what stands beside the axis, and the title.
METRICS: dict[Metric, tuple[str, str, str]] = {
    "loss": ("train_loss", "loss (nats per token)", "Loss"),
    "grad_norm": ("grad_norm", "global norm of the gradient", "Gradient norm"),
    "lr": ("lr", "learning rate", "Learning rate"),
    "tokens_per_second": ("tokens_per_second", "tokens per second", "Speed"),
}
PICTURES = (".svg", ".png", ".pdf")

# Okabe and Ito's colours, which the colour-blind tell apart, without yellow: white swallows it.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
DASHES: tuple[Dash, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))
MARKERS = ("o", "^", "s", "D", "o", "^", "s")
FILLED = 4  # the markers after these are hollow
# A run in the terminal: its letter, the shape of its marks, its colour.
SIGNS = tuple(
    zip(
        "abcdefg",
        "●▲■◆○△□",
        ("blue", "red", "green", "magenta", "yellow", "cyan", "white"),
        strict=True,
    )
)
MOST_RUNS = len(COLOURS)

INCHES = (8.0, 4.5)
PNG_DPI = 200
SMOOTH_POINTS = 800
RAW_POINTS = 1600


@dataclass(frozen=True)
class Curve:
    """One run's curve of one metric."""

    run: RunHistory
    raw: list[Point]  # (x, y) of every step
    smooth: list[Point]  # means of neighbours, fewer; the same as ``raw`` with a window of 1
    window: int  # how many steps a mean is taken over
    val: list[Point]  # (x, validation loss); empty for other metrics

    @property
    def name(self) -> str:
        """The run's name, safe to print."""
        return printable(self.run.name)


@dataclass(frozen=True)
class Plot:
    """Curves, one per run, with what stands around them; axes have a title with their unit."""

    curves: list[Curve]
    metric: Metric
    x: Axis
    title: str
    x_title: str
    y_title: str
    log_x: bool = False
    log_y: bool = False

    def caption(self, *, faint: bool) -> str:
        """Return what the kinds of lines are; ``faint`` ones show every step."""
        windows = {curve.window for curve in self.curves}
        parts = []
        if windows == {1}:
            parts.append("line: every step")
        else:
            known = len(windows) == 1
            count = f"{windows.pop():,}" if known else "as many as the legend says"
            parts.append(f"line: mean of {count}{' steps' if known else ''}")
            parts += ["faint: every step"] if faint else []
        if any(curve.val for curve in self.curves):
            parts.append("marks: validation")
        return "; ".join(parts)

    def legend(self, curve: Curve) -> str:
        """Return what the legend says of a curve."""
        if len({other.window for other in self.curves}) == 1:
            return curve.name
        return f"{curve.name} (mean of {curve.window})"


def default_window(steps: int) -> int:
    """Return over how many steps to take means: a fiftieth or more, as 1, 2 or 5 times 10^n."""
    power: int = 10 ** (len(str(max(steps // 50, 1))) - 1)
    return next(times * power for times in (1, 2, 5, 10) if 50 * times * power >= steps)


def plot_of(
    runs: Sequence[RunHistory],
    metric: Metric = "loss",
    x: Axis = "steps",
    *,
    smooth: int | None = None,
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
) -> Plot:
    """Return the curves of at most seven ``runs`` over updates, tokens seen or training time.

    Means are over ``smooth`` steps, 1: none; by default about a fiftieth of the longest run's.
    A logarithmic axis leaves out what is not above 0.

    Raises:
        Usage: too many runs, or one whose tokens per step are not known over tokens.
        BadData: nothing was measured that could be drawn.
    """
    if len(runs) > MOST_RUNS:
        raise Usage(f"{len(runs)} runs are too many for one plot: name {MOST_RUNS} at most")
    name, y_title, heading = METRICS[metric]
    unit, per_unit = _time_unit(runs) if x == "time" else ("", 1.0)
    curves = []
    window = smooth or default_window(max(len(run.steps) for run in runs))
    for run in runs:
        points = run.points(name)
        fitting = window if smooth else max(1, min(window, len(points) // 5))  # of a short run
        means = moving_mean(points, fitting, SMOOTH_POINTS) if fitting > 1 else points
        val: Sequence[Point] = run.val if metric == "loss" else []
        raw, smoothed, marks = (
            drawable(_over(run, x, per_unit, part), log_x, log_y) for part in (points, means, val)
        )
        curves.append(Curve(run, raw, smoothed, fitting, marks))
    if not any(curve.raw or curve.val for curve in curves):
        why = " above 0" if log_x or log_y else ""
        names = ", ".join(curve.name for curve in curves)
        raise BadData(f"nothing{why} was measured in {names}: train for some steps first")
    title = title or (f"{heading}: {curves[0].name}" if len(curves) == 1 else heading)
    over = {"steps": "steps", "tokens": "tokens seen", "time": f"training time ({unit})"}
    return Plot(curves, metric, x, title, over[x], y_title, log_x, log_y)


def _over(run: RunHistory, x: Axis, per_unit: float, points: Sequence[Point]) -> list[Point]:
    """Return (step, y) pairs as (x, y) pairs."""
    steps = [step for step, _ in points]
    if x == "time":
        xs = [seconds / per_unit for seconds in run.seconds_before(steps)]
    elif x == "steps":
        xs = steps
    elif run.tokens_per_step is None:
        raise Usage(
            f"how many tokens a step of {printable(run.name)} has is not known: use --x steps"
        )
    else:
        xs = [step * run.tokens_per_step for step in steps]
    return [(at, y) for at, (_, y) in zip(xs, points, strict=True)]


def _time_unit(runs: Sequence[RunHistory]) -> tuple[str, float]:
    longest = max(run.seconds for run in runs)
    for unit, seconds in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if longest >= 2 * seconds:
            return unit, seconds
    return "seconds", 1.0


def number(value: float) -> str:
    """Return a number for an axis: ``0``, ``2.35``, ``12,300``, ``6.0e-04``, ``1.23M``."""
    size = abs(value)
    if size >= 1e6:
        return short(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if size >= 0.1 or not value else f"{value:.1e}"


def in_terminal(plot: Plot, width: int, height: int) -> Picture:
    """Draw a plot in braille; letters and the shapes of marks tell several curves apart."""
    lines = [
        Line(curve.smooth, curve.val, letter, spot, colour)
        for curve, (letter, spot, colour) in zip(plot.curves, SIGNS, strict=False)
    ]
    if len(lines) == 1:
        lines = [replace(lines[0], mark="", style="")]
    return chart(
        lines,
        width=width,
        height=height,
        log_x=plot.log_x,
        log_y=plot.log_y,
        x_text=_end,
        y_text=number,
        x_title=plot.x_title,
    )


def _end(x: float) -> str:
    """Return what stands at an end of the axis below: whole numbers, which most are, in full."""
    return f"{x:,.0f}" if abs(x - round(x)) < 1e-9 and x < 1e6 else number(x)


def terminal_legend(plot: Plot) -> Picture:
    """Return a line per curve: its letter, the shape of its marks, the run."""
    if len(plot.curves) == 1:
        return []
    return [
        [(f"{letter} {spot if curve.val else ' '} ", colour), (plot.legend(curve), "")]
        for curve, (letter, spot, colour) in zip(plot.curves, SIGNS, strict=False)
    ]


def write_picture(plot: Plot, path: Path) -> None:
    """Draw a plot into an SVG, PNG or PDF file, as its ending says.

    Raises:
        Usage: matplotlib is not installed.
        BadData: the place cannot be written.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(cache_dir() / "matplotlib"))
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Usage(
            f"drawing {path.suffix} needs matplotlib: {install_command('plot')}, or draw an .html "
            "file, which needs nothing"
        ) from error
    kind = path.suffix[1:].lower()
    # The same numbers make the same file.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with (
        rc_context({"svg.hashsalt": "llmc", "font.size": 11, "axes.formatter.useoffset": False}),
        warnings.catch_warnings(),
        written_whole(path) as partial,
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name: a box is drawn
        figure = Figure(figsize=INCHES, layout="constrained")
        draw(plot, figure)
        figure.savefig(partial, format=kind, dpi=PNG_DPI, metadata=undated)


def draw(plot: Plot, figure: Any) -> None:
    """Draw a plot into an empty figure: every step faint, the means strong, validation as marks."""
    axes = figure.add_subplot()
    legend = []
    for index, curve in enumerate(plot.curves):
        colour, filled = COLOURS[index], index < FILLED
        if curve.window > 1:
            raw = extremes(curve.raw, RAW_POINTS)
            axes.plot(*_columns(raw), color=colour, alpha=0.25, linewidth=0.7)
        smooth = extremes(curve.smooth, RAW_POINTS)
        (line,) = axes.plot(
            *_columns(smooth), color=colour, linestyle=DASHES[index], linewidth=1.8, zorder=3
        )
        (spots,) = axes.plot(
            *_columns(curve.val),
            color=colour,
            linestyle="none",
            marker=MARKERS[index],
            markersize=5.5,
            markerfacecolor=colour if filled else "white",
            markeredgecolor="white" if filled else colour,
            markeredgewidth=0.8,
            zorder=4,
        )
        legend.append((line, spots) if curve.val else (line,))
    _set_axes(plot, axes)
    axes.set_title(plot.title, loc="left", fontweight="bold", pad=24, parse_math=False)
    axes.text(
        0, 1.03, plot.caption(faint=True), transform=axes.transAxes, fontsize=9, color="#555555"
    )
    if len(plot.curves) > 1:
        # A label that begins with "_" would be left out, so the names come afterwards.
        made = axes.legend(legend, [" "] * len(legend), frameon=False, handlelength=3.5)
        for text, curve in zip(made.get_texts(), plot.curves, strict=True):
            text.set_parse_math(False)
            text.set_text(plot.legend(curve))


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _set_axes(plot: Plot, axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xlabel(plot.x_title)
    axes.set_ylabel(plot.y_title)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    for axis, log in ((axes.xaxis, plot.log_x), (axes.yaxis, plot.log_y)):
        if log:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def tick(value: float) -> str:
    """Return a tick's number, a round one: ``0``, ``2.5``, ``4,000``, ``1.5M``, ``3e-04``."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e9:g}B" if size >= 1e9 else f"{value / 1e6:g}M"
    if 0 < size < 1e-3:
        return f"{value:.1e}".replace(".0e", "e")
    return f"{float(f'{value:.6g}'):,}".removesuffix(".0")
