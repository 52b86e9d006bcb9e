"""``llmc sweep``: short trials of several settings, and a table of their losses."""

from __future__ import annotations

import math
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llmc.cli.commands.train import Config, Model, Threads, ValData, of_data
from llmc.cli.context import Context
from llmc.cli.options import in_group, time_text, with_lists
from llmc.config import LENGTH, SAVING, TRAIN_SETTINGS
from llmc.errors import Interrupted
from llmc.train.dial import budget_of
from llmc.train.folder import read_record
from llmc.train.plan import Inputs
from llmc.train.plots import MOST_RUNS
from llmc.train.resume import typed
from llmc.train.sweep import Compared, shown_loss
from llmc.train.sweep import sweep as run_sweep
from llmc.units import finite, short

Data = Annotated[
    list[str] | None,
    of_data(
        "Dataset, token file or glob pattern; given several times, texts to mix by weight (1). "
        "Default: the dataset prepared last.",
        "PATH[:WEIGHT]",
    ),
]
For = Annotated[
    str | None,
    in_group(LENGTH)(
        "Time of each trial, such as 2m; its rate decays at the end (--max-time, --schedule wsd).",
        "TIME",
        names=("--for",),
        parser=time_text,
    ),
]
Seeds = Annotated[
    int, in_group(LENGTH)("Runs of each combination, with seeds from --seed on (1).", "N", 1)
]
Name = Annotated[
    str, in_group(SAVING)("Name of the sweep, with which its runs' names begin (sweep).", "NAME")
]


@with_lists(TRAIN_SETTINGS)
def sweep(
    context: typer.Context,
    *,
    data: Data = None,
    val_data: ValData = None,
    model: Model = None,
    config: Config = None,
    name: Name = "sweep",
    seeds: Seeds = 1,
    budget: For = None,
    threads: Threads = None,
    **settings: Any,
) -> None:
    """Compare training settings in short trials.

    The trials run one after the other. A setting takes several values with commas between them, and
    every combination is a run. The table has the validation loss at the end of each, the lowest
    first. After Ctrl-C the same command continues.
    """
    ctx: Context = context.obj
    given = {key: values for key, values in settings.items() if values is not None}
    words = _words(data, val_data, model, config)
    inputs = Inputs(None, config, data, val_data, model)
    try:
        rows = run_sweep(
            ctx.workspace,
            given,
            inputs,
            name=name,
            seeds=seeds,
            budget=budget,
            threads=threads,
            report=ctx.ui,
        )
    except Interrupted as error:
        again = ["--name", name, "--seeds", str(seeds), *(["--for", budget] if budget else [])]
        again += ["--threads", str(threads)] if threads is not None else []
        error.commands = (shlex.join(["llmc", "sweep", *words, *_lists(given), *again]),)
        raise
    ctx.ui.result({"sweep": name, "rows": [as_fields(row) for row in rows]})
    if not ctx.ui.json:
        print_rows(rows)
    best = rows[0]
    if math.isfinite(best.loss):
        runs = [row.runs[0].name for row in rows[:MOST_RUNS]]
        single = {key: values[0] for key, values in given.items()}
        if budget is not None:
            single = {"schedule": "wsd", **single}
        if budget_of(ctx.workspace, inputs, single) is not None:
            # Without the trials' model, train would choose another one, and other settings.
            trained = ctx.workspace.root / read_record(best.runs[0].folder)["model"]
            words += ["--model", ctx.workspace.shown(trained)]
        ctx.ui.next(
            shlex.join(["llmc", "train", *words, *typed({**single, **best.values})]),
            shlex.join(["llmc", "plot", *runs]),
        )


def _words(
    data: list[str] | None, val_data: list[str] | None, model: Path | None, config: str | None
) -> list[str]:
    words = [word for each in data or () for word in ("--data", each)]
    words += [word for each in val_data or () for word in ("--val-data", each)]
    words += ["--model", str(model)] if model is not None else []
    return words + (["--config", config] if config is not None else [])


def _lists(given: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return settings as this command takes them, the values of each with commas between them."""
    words = []
    for name, values in given.items():
        shown = ["off" if each is False else "on" if each is True else str(each) for each in values]
        words += [TRAIN_SETTINGS[name].flag, ",".join(shown)]
    return words


def as_fields(row: Compared) -> dict[str, Any]:
    """Return a row for ``--json``; null where a number is not known or not finite."""
    return {
        "settings": dict(row.values),
        "val_loss": finite(row.loss),
        "val_error": row.error,
        "runs": [run.name for run in row.runs],
        "losses": [finite(loss) for loss in row.losses],
        "steps": [run.done for run in row.runs],
        "tokens_per_second": [run.tokens_per_second for run in row.runs],
    }


def cells(row: Compared) -> list[str]:
    """Return a row's cells: its values, loss, error, steps and speed."""
    error = f"±{row.error:.2g}" if row.error is not None else ""
    speed = statistics.fmean(run.tokens_per_second or 0 for run in row.runs)
    steps = statistics.fmean(run.done for run in row.runs)
    return [
        *map(str, row.values.values()),
        shown_loss(row.loss),
        error,
        f"{steps:,.0f}",
        short(speed),
    ]


def print_rows(rows: Sequence[Compared]) -> None:
    """Print the table on a terminal, and lines with tabs in a pipe."""
    titles = [*rows[0].values, "val loss", "", "steps made", "tok/s"]
    if not sys.stdout.isatty():
        lines = [titles, *map(cells, rows)]
        sys.stdout.write("".join("\t".join(line) + "\n" for line in lines))
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        drawn.add_column(title, justify="right")
    for row in rows:
        drawn.add_row(*cells(row))
    Console(highlight=False).print(drawn)
