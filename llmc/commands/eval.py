"""``llmc eval``: how well a model predicts a text, or answers HellaSwag."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmc.builder import ensure_native
from llmc.context import Context
from llmc.datasets import HELLASWAG, fetched_files
from llmc.errors import BadData, Interrupted, LlmcError, MissingOutput, Usage
from llmc.evaluation import Ratio, Score, Tally, score, token_bytes
from llmc.formats.rows import write_rows
from llmc.formats.tokens import read_tokens, write_tokens
from llmc.hellaswag import (
    ENDINGS,
    Results,
    Row,
    chosen,
    read_examples,
    rows_of,
    table_of,
)
from llmc.machine import available_cores
from llmc.process import Engine
from llmc.subjects import DEFAULT_SPLIT, Subject, Text, find_subject, find_text
from llmc.tokenizers import Tokenizer
from llmc.units import clock, megabytes

Event = dict[str, Any]
Advance = Callable[[int], None]


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
    """Measure a model: loss, perplexity, bits per byte, or HellaSwag's accuracy.

    Every token but the first is predicted once, in windows of T tokens. Each number comes with its
    standard error; bits per byte compares models of different tokenizers. docs/eval.md has the
    definitions.
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


# ---- the engine ----------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far an evaluation has come.

    Attributes:
        start: what the engine said of the last token file before it began.
        total: tokens to predict in all; 0 where that is not known yet.
        done: tokens predicted so far.
        began: when.
    """

    start: Event = field(default_factory=dict)
    total: int = 0
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self.began

    def fields(self) -> Event:
        """Return how the engine ran, for ``--json``."""
        keys = ("batch_size", "seq_len", "dtype", "isa", "threads")
        return {
            **{key: self.start[key] for key in keys},
            "memory_bytes": self.start["memory"],
            "seconds": self.seconds,
            "tokens_per_second": self.done / self.seconds,
        }

    def sentence(self) -> str:
        """Return the same for a person."""
        start = self.start
        as_floats = start["dtype"] == "bf16" and not start["multiplies_bf16"]
        return (
            f"took {clock(self.seconds)}: {self.done / self.seconds:,.0f} tokens/s, "
            f"{megabytes(start['memory'])}, {start['dtype']}"
            + (" multiplied as floats: this CPU has no bf16 instructions" if as_floats else "")
        )


def evaluated_rows(argv: Sequence[str], progress: Progress, advance: Advance) -> Iterator[Event]:
    """Run the engine and yield its events about rows, in order.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    with Engine(argv) as engine:
        for line in engine:
            try:
                event = json.loads(line)
            except ValueError as error:
                raise LlmcError(f"the engine said what is no event: {line[:80]!r}") from error
            if event["event"] == "start":
                progress.start = event
                continue
            yield event
            progress.done += len(event["losses"])
            advance(progress.done)


@contextmanager
def _bar(here: Context, description: str, total: int) -> Iterator[Advance]:
    """Show progress in tokens, with the time that is left; nothing in a pipe."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    left = TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"), TimeRemainingColumn()
    silent = here.ui.quiet or not here.ui.console.is_terminal
    with Bar(*columns, *left, console=here.ui.console, transient=True, disable=silent) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


# ---- loss ----------------------------------------------------------------------------------------


def eval_loss(
    here: Context, subject: Subject, text: Text, flags: Sequence[str], most: int | None
) -> Score:
    """Predict every token of a text but each file's first, print what came out and return it.

    Args:
        here: the workspace and the voice.
        subject: what predicts.
        text: what is predicted.
        flags: of the engine.
        most: predict the first so many tokens only.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    where, tokenizer = here.workspace.shown, text.tokenizer
    here.ui.note(f"data: {', '.join(map(where, text.files))}")
    here.ui.note(f"model: {where(subject.checkpoint)}")
    binary = ensure_native(here)
    tally = Tally()
    if tokenizer is None:
        here.ui.note("nothing tells the tokenizer: no bits per byte, no documents")
    else:
        tally = Tally(tokenizer.eot, token_bytes(tokenizer))
    progress = Progress(total=sum(max(len(read_tokens(file)) - 1, 0) for file in text.files))
    progress.total = min(progress.total, most or progress.total)
    try:
        with _bar(here, "evaluating", progress.total) as advance:
            for file in text.files:
                left = progress.total - progress.done
                if left == 0:
                    break
                limit = ["--max-tokens", str(left)] if most is not None else []
                ids = read_tokens(file)
                tally.begin_file()
                argv = [str(binary), "eval", "--data", str(file), *flags, *limit]
                for row in evaluated_rows(argv, progress, advance):
                    at, losses = row["at"], row["losses"]
                    tally.add(ids[at : at + len(losses)], losses)
    except Interrupted as stop:
        said = "nothing was measured"
        if progress.done:
            said = f"so far {_loss_line(score(tally, progress.start['seq_len']))}"
        raise Interrupted(
            f"interrupted after {progress.done:,} of {progress.total:,} tokens; {said}"
        ) from stop
    result = score(tally, progress.start["seq_len"])
    _report_loss(here, result)
    here.ui.note(progress.sentence())
    here.ui.result(
        {
            "task": "loss",
            "model": str(subject.checkpoint),
            "data": [str(file) for file in text.files],
            "split": text.split,
            **result.fields(),
            **progress.fields(),
        }
    )
    other = "train" if text.split == "val" else "val"
    if text.split is not None:
        here.ui.next(f"llmc eval {subject.named} --split {other}")
    return result


def _loss_line(result: Score) -> str:
    return f"loss {result.loss.value:.4f}{_error(result.loss)} nats a token"


def _error(value: Ratio, scale: float = 1, digits: int = 4) -> str:
    return f" ± {scale * value.error:.{digits}f}" if value.error is not None else ""


def _report_loss(here: Context, result: Score) -> None:
    lines = [("loss", _loss_line(result).removeprefix("loss "))]
    perplexity = _large(result.perplexity)
    if (interval := result.perplexity_interval) is not None:
        perplexity += f" (95 % interval {_large(interval[0])} to {_large(interval[1])})"
    lines += [("perplexity", perplexity)]
    size = f"{result.tokens:,} tokens"
    if (bits := result.bits_per_byte) is not None and result.text_bytes:
        lines += [("bits per byte", f"{bits.value:.4f}{_error(bits)}")]
        size += f", {result.text_bytes:,} bytes: {result.text_bytes / result.tokens:.2f} a token"
    lines += [("predicted", size)]
    if result.loss.error is None:
        lines += [("±", "not known: the text is a single window")]
    else:
        lines += [("±", f"standard error over {result.units:,} {result.unit}")]
    _print(here, lines)


def _large(x: float) -> str:
    return f"{x:,.2f}" if x < 1e3 else f"{x:,.0f}" if x < 1e9 else f"{x:.3g}"


def _print(here: Context, lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values on stdout; nothing where JSON is asked for."""
    if here.ui.json:
        return
    width = max(len(name) for name, _ in lines)
    sys.stdout.writelines(f"{name:{width}}  {value}\n" for name, value in lines)
    sys.stdout.flush()


# ---- HellaSwag -----------------------------------------------------------------------------------


def eval_hellaswag(
    here: Context, subject: Subject, data: Path | None, flags: Sequence[str], most: int | None
) -> Results:
    """Ask a model HellaSwag's questions by llm.c's protocol, print its accuracy and return it.

    Args:
        here: the workspace and the voice.
        subject: what answers.
        data: the published JSONL; None: the fetched one.
        flags: of the engine.
        most: ask so many questions only, evenly spread.

    Raises:
        LlmcError: the file is not there or not of that form, or the engine failed.
    """
    where = here.workspace.shown
    path = data if data is not None else fetched_files(here.workspace, HELLASWAG)[0]
    if not path.is_file():
        raise MissingOutput(f"there is no file {path}: get it with 'llmc fetch hellaswag'")
    tokenizer = subject.tokenizer(here)
    if tokenizer is None:
        raise BadData(
            f"nothing in the workspace tells the tokenizer of {where(subject.checkpoint)}, which "
            "HellaSwag's text needs: evaluate a run, or bring the dataset it was trained on"
        )
    here.ui.note(f"data: {where(path)}")
    here.ui.note(f"model: {where(subject.checkpoint)}; tokenizer: {tokenizer.name}")
    binary = ensure_native(here)
    examples = chosen(read_examples(path), most)
    positions = subject.header.config.context
    rows = [row for example in examples for row in rows_of(example, tokenizer, positions)]
    cut = sum(row.cut > 0 for row in rows)
    results = Results([example.label for example in examples])
    progress = Progress(total=sum(len(row.ids) - row.start for row in rows))
    with tempfile.TemporaryDirectory(prefix="llmc-eval.") as name:
        argv = [str(binary), "eval", *_written(Path(name), rows, tokenizer), *flags]
        try:
            with _bar(here, "HellaSwag", progress.total) as advance:
                for row in evaluated_rows(argv, progress, advance):
                    results.add(row["losses"])
        except Interrupted as stop:
            said = f"; so far {_shares(results)}" if results.done else ""
            raise Interrupted(
                f"interrupted after {results.done:,} of {len(examples):,} questions{said}"
            ) from stop
    _report_hellaswag(here, results)
    if cut:
        here.ui.note(
            f"{cut:,} of {len(rows):,} endings with their context are longer than the model's "
            f"{positions} positions: they were cut in front"
        )
    here.ui.note(progress.sentence())
    here.ui.result(
        {
            "task": "hellaswag",
            "model": str(subject.checkpoint),
            "data": [str(path)],
            "examples": results.done,
            "acc": results.acc.value,
            "acc_error": results.acc.error,
            "acc_norm": results.acc_norm.value,
            "acc_norm_error": results.acc_norm.error,
            "endings_cut": cut,
            **progress.fields(),
        }
    )
    return results


def _written(folder: Path, rows: Sequence[Row], tokenizer: Tokenizer) -> list[str]:
    """Write the rows as the engine reads them; return the flags that name the files."""
    import numpy as np

    tokens, table = folder / "tokens.bin", folder / "rows.bin"
    write_tokens(tokens, (np.array(row.ids) for row in rows), tokenizer.vocab_size)
    write_rows(table, table_of(rows))
    return ["--data", str(tokens), "--rows", str(table)]


def _shares(results: Results) -> str:
    return f"acc_norm {_share(results.acc_norm)}, acc {_share(results.acc)}"


def _share(value: Ratio) -> str:
    return f"{100 * value.value:.2f}{_error(value, 100, 2)} %"


def _report_hellaswag(here: Context, results: Results) -> None:
    lines = [
        ("acc_norm", f"{_share(results.acc_norm)} (by the mean loss of the ending's tokens)"),
        ("acc", f"{_share(results.acc)} (by their sum)"),
        ("questions", f"{results.done:,}; guessing gives 25 %"),
    ]
    _print(here, lines)
