"""``llmc eval``: how well a model predicts a text, or answers HellaSwag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.engine.machine import available_cores
from llmc.errors import Usage
from llmc.evaluate.hellaswag import ENDINGS
from llmc.evaluate.hellaswag_run import eval_hellaswag
from llmc.evaluate.loss import eval_loss
from llmc.evaluate.target import DEFAULT_SPLIT, find_subject, find_text


def eval(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|MODEL]", help="A run or a checkpoint. Default: the newest run."
        ),
    ] = None,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Dataset folder or token file; for hellaswag its JSONL. Default: the run's own, "
            "or for a checkpoint the dataset prepared last; for hellaswag what was fetched."
        ),
    ] = None,
    task: Annotated[Literal["loss", "hellaswag"], typer.Option(help="What to measure.")] = "loss",
    split: Annotated[
        Literal["train", "val"] | None,
        typer.Option(help=f"Which of the dataset's token files ({DEFAULT_SPLIT})."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Predict the first N tokens only.")
    ] = None,
    max_examples: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Ask N of HellaSwag's questions, evenly spread."),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(min=1, help="T, tokens in a window. Default: the model's context."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="B, windows at a time. Default: about 1,024 tokens, if they fit."),
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16", "int8"],
        typer.Option(help="What linear layers multiply; int8 as sample and serve do."),
    ] = "fp32",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads. Default: one per core. Same numbers for any."),
    ] = None,
) -> None:
    """Measure a model: loss, perplexity, bits per byte, HellaSwag.

    Every token but the first is predicted once, in windows of T tokens. Each number comes with its
    standard error; bits per byte compares models of different tokenizers. docs/guide/eval.md has
    the definitions.
    """
    here: Context = ctx.obj
    subject = find_subject(here, target)
    engine = ["--model", str(subject.checkpoint), "--dtype", dtype, "--events", "json"]
    engine += ["--threads", str(threads or available_cores())]
    engine += ["--batch-size", str(batch_size)] if batch_size is not None else []
    if task == "hellaswag":
        _refuse(task, split=split, max_tokens=max_tokens, seq_len=seq_len)
        if batch_size is None:
            engine += ["--batch-size", str(ENDINGS)]
        eval_hellaswag(here, subject, data, engine, max_examples)
        return
    _refuse(task, max_examples=max_examples)
    if seq_len is not None and seq_len > subject.header.config.context:
        raise Usage(
            f"--seq-len {seq_len} is more than the {subject.header.config.context} positions of "
            f"{here.workspace.shown(subject.checkpoint)}: use at most that"
        )
    engine += ["--seq-len", str(seq_len)] if seq_len is not None else []
    eval_loss(here, subject, find_text(here, subject, data, split), engine, max_tokens)


def _refuse(task: str, **flags: object) -> None:
    """Refuse flags that a task has no use for.

    Raises:
        Usage: one was given.
    """
    for name, value in flags.items():
        if value is not None:
            raise Usage(
                f"--{name.replace('_', '-')} has no meaning for --task {task}: leave it out"
            )
