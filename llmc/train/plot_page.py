"""Curves as a web page: one file with its numbers inside, which asks nothing of any server."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from llmc.paths import written_whole
from llmc.terminal import printable
from llmc.train.curves import extremes
from llmc.train.history import RunHistory
from llmc.train.metrics import Point
from llmc.train.plots import METRICS, Curve, Metric, Plot, plot_of
from llmc.units import clock, short

TEMPLATE = "plot_page.html"
RAW_POINTS, SMOOTH_POINTS = 1200, 600


def write_page(first: Plot, path: Path, *, smooth: int | None, title: str | None) -> None:
    """Write a page with every metric over steps, tokens and time, to choose among.

    It shows ``first`` first. ``smooth`` and ``title`` are as for :func:`llmc.train.plots.plot_of`.

    Raises:
        BadData: the place cannot be written.
    """
    runs = [curve.run for curve in first.curves]
    heading = title or ", ".join(curve.name for curve in first.curves)
    curves = {name: _curves(runs, name, smooth) for name in METRICS}
    data = {
        "metrics": {name: {"title": METRICS[name][2], "unit": METRICS[name][1]} for name in curves},
        "show": {name: getattr(first, name) for name in ("metric", "x", "log_x", "log_y")},
        "runs": [
            {
                "name": printable(run.name),
                "tokens_per_step": run.tokens_per_step,
                "curves": {name: _numbers(each[index]) for name, each in curves.items()},
            }
            for index, run in enumerate(runs)
        ],
    }
    # "<" would let a name end the script; JSON has another way to write it.
    numbers = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = (files("llmc.train") / TEMPLATE).read_text(encoding="utf-8")
    page = page.replace("{{title}}", html.escape(heading))
    page = page.replace("{{table}}", _table(runs)).replace("{{data}}", numbers)
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _curves(runs: Sequence[RunHistory], metric: Metric, smooth: int | None) -> list[Curve]:
    if not any(run.points(METRICS[metric][0]) or run.val for run in runs):
        return [Curve(run, [], [], 1, []) for run in runs]
    return plot_of(runs, metric, smooth=smooth).curves


def _numbers(curve: Curve) -> dict[str, Any]:
    """Return a curve as columns: steps, seconds of training before them, numbers of 6 digits."""

    def columns(points: list[Point]) -> dict[str, list[float]]:
        steps = [step for step, _ in points]
        return {
            "step": [int(step) for step in steps],
            "seconds": [round(seconds, 3) for seconds in curve.run.seconds_before(steps)],
            "y": [float(f"{y:.6g}") for _, y in points],
        }

    return {
        "window": curve.window,
        "raw": columns(extremes(curve.raw, RAW_POINTS) if curve.window > 1 else []),
        "line": columns(extremes(curve.smooth, SMOOTH_POINTS)),
        "val": columns(curve.val),
    }


def _table(runs: Sequence[RunHistory]) -> str:
    """Return the table's rows: what the curves end with."""
    rows = []
    for run in runs:
        best = f"{run.best_val[1]:.4f} at step {run.best_val[0]:,}" if run.best_val else "–"
        cells = [
            f"{run.done:,}",
            _loss(run.recent_loss),
            _loss(run.val_loss),
            best,
            short(run.tokens),
            clock(run.seconds),
            short(run.tokens_per_second),
            run.state,
        ]
        name = f'<th scope="row">{html.escape(printable(run.name))}</th>'
        rows.append(f"<tr>{name}{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return "\n".join(rows)


def _loss(loss: float | None) -> str:
    return f"{loss:.4f}" if loss is not None and math.isfinite(loss) else "–"
