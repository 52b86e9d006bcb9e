"""``llmc eval``: measure how well a model predicts a text, or how well it answers HellaSwag."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmc.cli.context import Context
from llmc.cli.options import LAST_HELP, argument, in_group, positive
from llmc.cli.ui import Ui
from llmc.errors import Usage
from llmc.evaluate import hellaswag, loss
from llmc.evaluate.rows import EngineOptions, EngineRun
from llmc.evaluate.target import DEFAULT_SPLIT
from llmc.train.mixture import percent
from llmc.units import duration, megabytes

of_measured = in_group("What is measured")
of_engine = in_group("Engine")

Target = Annotated[
    str | None, argument("[RUN|MODEL]", "Run or checkpoint. Default: the newest run.")
]
Data = Annotated[
    Path | None,
    of_measured(
        "Dataset folder or token file; for hellaswag its JSONL file. Default: the run's "
        "dataset; for a checkpoint the newest dataset; for hellaswag the fetched file.",
        "PATH",
    ),
]
Task = Annotated[Literal["loss", "hellaswag"], of_measured("What to measure (loss).")]
Last = Annotated[bool, of_measured(LAST_HELP, names=("--last",))]
Split = Annotated[
    Literal["train", "val"] | None, of_measured(f"Split of the dataset ({DEFAULT_SPLIT}).")
]
MaxTokens = Annotated[
    int | None,
    of_measured("Predict N tokens, in windows spread evenly over the text.", "N", parser=positive),
]
MaxExamples = Annotated[
    int | None, of_measured("Ask N HellaSwag questions, evenly spaced.", "N", parser=positive)
]
SeqLen = Annotated[
    int | None, of_engine("Tokens in a window. Default: the model's context.", "T", 1)
]
BatchSize = Annotated[
    int | None, of_engine("Windows at a time. Default: about 1,024 tokens, if they fit.", "B", 1)
]
Dtype = Annotated[
    Literal["fp32", "bf16", "int8"], of_engine("Type of the weights in linear layers (fp32).")
]
Threads = Annotated[
    int | None,
    of_engine("Threads. Default: one per physical core. The numbers do not depend on it.", "N", 1),
]


def eval(
    context: typer.Context,
    target: Target = None,
    *,
    last: Last = False,
    data: Data = None,
    task: Task = "loss",
    split: Split = None,
    max_tokens: MaxTokens = None,
    max_examples: MaxExamples = None,
    seq_len: SeqLen = None,
    batch_size: BatchSize = None,
    dtype: Dtype = "fp32",
    threads: Threads = None,
) -> None:
    """Measure a model: loss, perplexity, bits per byte, HellaSwag.

    Every token but the first is predicted once, in windows of T tokens. Each number comes with its
    standard error. Bits per byte can be compared between models with different tokenizers.
    docs/guide/eval.md has the definitions.
    """
    ctx: Context = context.obj
    options = EngineOptions(batch_size, seq_len, dtype, threads)
    common: dict[str, Any] = {"data": data, "last": last, "options": options, "report": ctx.ui}
    if task == "hellaswag":
        _refuse(task, split=split, max_tokens=max_tokens, seq_len=seq_len)
        answered = hellaswag.evaluate_hellaswag(
            ctx.workspace, target, max_examples=max_examples, **common
        )
        _show_hellaswag(ctx.ui, answered)
        return
    _refuse(task, max_examples=max_examples)
    result = loss.evaluate(ctx.workspace, target, split=split, max_tokens=max_tokens, **common)
    _show_loss(ctx.ui, result)
    if result.other_split is not None:
        words = ["llmc", "eval", target or result.model.name, *(["--last"] if last else [])]
        words += ["--data", str(data)] if data is not None else []
        ctx.ui.next(shlex.join([*words, "--split", result.other_split]))


def _refuse(task: str, **flags: object) -> None:
    """Refuse flags that a task does not use."""
    for name, value in flags.items():
        if value is not None:
            raise Usage(
                f"--{name.replace('_', '-')} has no meaning for --task {task}: leave it out"
            )


def _show_loss(ui: Ui, result: loss.LossResult) -> None:
    score, split = result.score, result.split
    perplexity = _large(score.perplexity)
    if (interval := score.perplexity_interval) is not None:
        perplexity += f" (95 % interval {_large(interval[0])} to {_large(interval[1])})"
    lines = [("loss", f"{score.loss.shown()} nats per token"), ("perplexity", perplexity)]
    lines += [
        (part.name, f"{part.score.loss.shown()} nats per token, counts for {percent(part.share)}")
        for part in result.parts
    ]
    size = f"{score.tokens:,} tokens"
    if score.bits_per_byte is not None and score.text_bytes:
        lines += [("bits per byte", score.bits_per_byte.shown())]
        size += f", {score.text_bytes:,} bytes: {score.text_bytes / score.tokens:.2f} per token"
    lines += [("predicted", size)]
    if score.loss.error is None:
        lines += [("±", "unknown: the text is a single window")]
    else:
        lines += [("±", f"standard error over {score.units:,} {score.unit}")]
    _print_lines(ui, lines)
    ui.note(_speed(result.engine))
    ui.result(
        {
            "task": "loss",
            "model": str(result.model.checkpoint),
            "data": [str(file) for file in result.files],
            "split": split,
            **score.fields(),
            **_part_fields(result),
            **_engine_fields(result.engine),
        }
    )


def _part_fields(result: loss.LossResult) -> dict[str, Any]:
    """Return the texts of a mixture."""
    parts = [
        {"text": part.name, "share": part.share, **part.score.fields()} for part in result.parts
    ]
    return {"parts": parts} if parts else {}


def _show_hellaswag(ui: Ui, result: hellaswag.HellaSwagResult) -> None:
    accuracy = result.accuracy
    acc, acc_norm = accuracy.acc, accuracy.acc_norm
    _print_lines(
        ui,
        [
            ("acc_norm", f"{acc_norm.shown(100, 2)} % (by the mean loss of the ending's tokens)"),
            ("acc", f"{acc.shown(100, 2)} % (by the sum of their losses)"),
            ("questions", f"{accuracy.done:,}; guessing gives 25 %"),
        ],
    )
    if result.cut:
        ui.note(
            f"{result.cut:,} of {result.rows:,} endings with their context are longer than the "
            f"model's {result.model.header.config.context} positions: cut at the front"
        )
    ui.note(_speed(result.engine))
    ui.result(
        {
            "task": "hellaswag",
            "model": str(result.model.checkpoint),
            "data": [str(result.data)],
            "examples": accuracy.done,
            "acc": acc.value,
            "acc_error": acc.error,
            "acc_norm": acc_norm.value,
            "acc_norm_error": acc_norm.error,
            "endings_cut": result.cut,
            **_engine_fields(result.engine),
        }
    )


def _print_lines(ui: Ui, lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values on stdout; nothing with ``--json``."""
    if ui.json:
        return
    width = max(len(name) for name, _ in lines)
    sys.stdout.writelines(f"{name:{width}}  {value}\n" for name, value in lines)
    sys.stdout.flush()


def _engine_fields(run: EngineRun) -> dict[str, Any]:
    return {name: value for name, value in asdict(run).items() if name != "as_floats"}


def _speed(run: EngineRun) -> str:
    as_floats = " multiplied as floats: this CPU has no bf16 instructions" if run.as_floats else ""
    return (
        f"took {duration(run.seconds)}: {run.tokens_per_second:,.0f} tokens/s, "
        f"{megabytes(run.memory_bytes)}, {run.dtype}{as_floats}"
    )


def _large(x: float) -> str:
    return f"{x:,.2f}" if x < 1e3 else f"{x:,.0f}" if x < 1e9 else f"{x:.3g}"
