"""``llmc plot``: draw the curves of runs, or hand their numbers to other tools."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmc.cli.context import Context
from llmc.cli.options import argument, in_group
from llmc.errors import Usage
from llmc.terminal import printable
from llmc.train.curves import Picture, plain
from llmc.train.history import RunHistory, find_history
from llmc.train.plot_page import write_page
from llmc.train.plots import (
    PICTURES,
    Axis,
    Metric,
    Plot,
    in_terminal,
    plot_of,
    terminal_legend,
    write_picture,
)
from llmc.train.trackers import write_tensorboard, write_wandb

PIPE_COLUMNS, MOST_COLUMNS, MOST_LINES = 80, 120, 20
of_curves = in_group("Curves")
of_output = in_group("Output")

Runs = Annotated[list[str] | None, argument("RUN", "Runs, by name or folder; none: the newest.")]
MetricOption = Annotated[
    Metric, of_curves("Metric: loss, grad_norm, lr or tokens_per_second (loss).", "NAME")
]
X = Annotated[Axis, of_curves("Horizontal axis: steps, tokens or (training) time (steps).", "AXIS")]
Smooth = Annotated[
    int | None, of_curves("Moving average over N steps (a fiftieth of the run; 1: none).", "N", 1)
]
LogX = Annotated[bool, of_curves("Logarithmic horizontal axis.", names=("--log-x",))]
LogY = Annotated[bool, of_curves("Logarithmic vertical axis.", names=("--log-y",))]
Title = Annotated[str | None, of_curves("Title (the names of the metric and the run).", "TEXT")]
Out = Annotated[
    Path | None,
    of_output("Write a .svg, .png, .pdf or .html file instead of drawing in the terminal.", "FILE"),
]
Tensorboard = Annotated[
    Path | None,
    of_output("Write event files for TensorBoard to DIR/RUN instead of drawing.", "DIR"),
]
Wandb = Annotated[
    Path | None,
    of_output("Write offline runs of Weights & Biases to DIR instead of drawing.", "DIR"),
]


def plot(
    context: typer.Context,
    runs: Runs = None,
    *,
    metric: MetricOption = "loss",
    x: X = "steps",
    smooth: Smooth = None,
    log_x: LogX = False,
    log_y: LogY = False,
    title: Title = None,
    out: Out = None,
    tensorboard: Tensorboard = None,
    wandb: Wandb = None,
) -> None:
    """Plot training curves in the terminal, as a picture or as a page.

    Seven runs at most. Validation losses are drawn as marks. A .html file holds all metrics and
    needs no server. Pictures need the extra 'plot' (matplotlib), --tensorboard the extra
    'tensorboard', --wandb the package wandb. --json prints the numbers that are drawn.
    """
    ctx: Context = context.obj
    names: list[str | None] = [*dict.fromkeys(runs or [])]
    found = [find_history(ctx.workspace, name) for name in names or [None]]
    for run in found:
        for problem in run.problems:
            ctx.ui.note(f"{printable(run.name)}: {printable(problem)}")
    if sum(place is not None for place in (out, tensorboard, wandb)) > 1:
        raise Usage("--out, --tensorboard and --wandb exclude each other: give one")
    if tensorboard is not None or wandb is not None:
        ctx.ui.result({"written": export(ctx, found, tensorboard, wandb)})
        return
    if out is not None and out.suffix.lower() not in (*PICTURES, ".html"):
        raise Usage(f"--out {out} must end in .svg, .png, .pdf or .html: that chooses the format")
    drawn = plot_of(found, metric, x, smooth=smooth, log_x=log_x, log_y=log_y, title=title)
    if out is None:
        if not ctx.ui.json:
            show(drawn)
    else:
        if out.suffix.lower() == ".html":
            write_page(drawn, out, smooth=smooth, title=title)
        else:
            write_picture(drawn, out)
        ctx.ui.note(f"drew {ctx.workspace.shown(out)}")
    ctx.ui.result(as_fields(drawn, out))
    if out is None:
        chosen = ["--metric", metric] if metric != "loss" else []
        words = ["llmc", "plot", *(runs or []), *chosen, "--out", f"{metric}.html"]
        ctx.ui.next(shlex.join(words))


def export(
    ctx: Context, runs: list[RunHistory], tensorboard: Path | None, wandb: Path | None
) -> list[str]:
    """Write runs for another tool; return where they are, and say how it opens them.

    Raises:
        Usage: two runs have one name.
    """
    names = [run.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Usage(f"two runs are called {printable(twice)}: write them one at a time")
    written = []
    for run in runs:
        if tensorboard is not None:
            written.append(write_tensorboard(run, tensorboard / run.name))
        elif wandb is not None:
            written.append(write_wandb(run, wandb))
        ctx.ui.note(f"wrote {ctx.workspace.shown(written[-1])}")
    if not ctx.ui.quiet:
        words = ["tensorboard", "--logdir"] if tensorboard is not None else ["wandb", "sync"]
        place = tensorboard if tensorboard is not None else written[0]
        ctx.ui.note(f"next: {shlex.join([*words, str(place)])}")
    return [str(path) for path in written]


def show(drawn: Plot) -> None:
    """Print a plot on stdout, in colours where that is a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    terminal = sys.stdout.isatty()
    width = min(console.width, MOST_COLUMNS) if terminal else PIPE_COLUMNS
    height = max(6, min(console.height - 9 - len(drawn.curves), MOST_LINES)) if terminal else 16
    heading: Picture = [
        [(drawn.title, "bold")],
        [(f"{drawn.y_title}; {drawn.caption(faint=False)}", "dim")],
    ]
    for picture in (heading, in_terminal(drawn, width, height), terminal_legend(drawn)):
        if not terminal:
            sys.stdout.write(plain(picture) + "\n" if picture else "")
        for line in picture if terminal else ():
            console.print(Text.assemble(*line), soft_wrap=True)


def as_fields(drawn: Plot, out: Path | None) -> dict[str, Any]:
    """Return the numbers of a plot, for ``--json``."""
    return {
        "metric": drawn.metric,
        "x": drawn.x,
        "x_title": drawn.x_title,
        "y_title": drawn.y_title,
        "file": str(out) if out is not None else None,
        "runs": [
            {
                "run": curve.run.name,
                "folder": str(curve.run.folder),
                "window": curve.window,
                "points": curve.raw,
                "smoothed": curve.smooth,
                "validation": curve.val,
            }
            for curve in drawn.curves
        ],
    }
