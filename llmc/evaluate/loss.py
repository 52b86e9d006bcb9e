"""A model measured on a text: the engine's losses, row by row, and what is said of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from llmc.cli.context import Context
from llmc.engine.build import ensure_native
from llmc.engine.process import Engine
from llmc.errors import Interrupted
from llmc.evaluate.statistics import Ratio, Score, Tally, score, token_bytes
from llmc.evaluate.target import Subject, Text
from llmc.tokens.files import read_tokens
from llmc.train.metrics import Event
from llmc.units import duration, megabytes

Advance = Callable[[int], None]


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
            f"took {duration(self.seconds)}: {self.done / self.seconds:,.0f} tokens/s, "
            f"{megabytes(start['memory'])}, {start['dtype']}"
            + (" multiplied as floats: this CPU has no bf16 instructions" if as_floats else "")
        )


def evaluated_rows(argv: Sequence[str], progress: Progress, advance: Advance) -> Iterator[Event]:
    """Run the engine and yield its events about rows, in order.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    with Engine(argv) as engine:
        for event in engine.events():
            if event["event"] == "start":
                progress.start = event
                continue
            yield event
            progress.done += len(event["losses"])
            advance(progress.done)


@contextmanager
def progress_bar(here: Context, description: str, total: int) -> Iterator[Advance]:
    """Show progress in tokens, with the time that is left; nothing in a pipe."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    left = TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"), TimeRemainingColumn()
    silent = here.ui.quiet or not here.ui.console.is_terminal
    with Bar(*columns, *left, console=here.ui.console, transient=True, disable=silent) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


def print_lines(here: Context, lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values on stdout; nothing where JSON is asked for."""
    if here.ui.json:
        return
    width = max(len(name) for name, _ in lines)
    sys.stdout.writelines(f"{name:{width}}  {value}\n" for name, value in lines)
    sys.stdout.flush()


def error_text(value: Ratio, scale: float = 1, digits: int = 4) -> str:
    """Return the standard error as it stands behind its number; nothing where it is not known."""
    return f" ± {scale * value.error:.{digits}f}" if value.error is not None else ""


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
    binary = ensure_native(report=here.ui)
    tally = Tally()
    if tokenizer is None:
        here.ui.note("nothing tells the tokenizer: no bits per byte, no documents")
    else:
        tally = Tally(tokenizer.eot, token_bytes(tokenizer))
    progress = Progress(total=sum(max(len(read_tokens(file)) - 1, 0) for file in text.files))
    progress.total = min(progress.total, most or progress.total)
    try:
        with progress_bar(here, "evaluating", progress.total) as advance:
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
    return f"loss {result.loss.value:.4f}{error_text(result.loss)} nats a token"


def _report_loss(here: Context, result: Score) -> None:
    lines = [("loss", _loss_line(result).removeprefix("loss "))]
    perplexity = _large(result.perplexity)
    if (interval := result.perplexity_interval) is not None:
        perplexity += f" (95 % interval {_large(interval[0])} to {_large(interval[1])})"
    lines += [("perplexity", perplexity)]
    size = f"{result.tokens:,} tokens"
    if (bits := result.bits_per_byte) is not None and result.text_bytes:
        lines += [("bits per byte", f"{bits.value:.4f}{error_text(bits)}")]
        size += f", {result.text_bytes:,} bytes: {result.text_bytes / result.tokens:.2f} a token"
    lines += [("predicted", size)]
    if result.loss.error is None:
        lines += [("±", "not known: the text is a single window")]
    else:
        lines += [("±", f"standard error over {result.units:,} {result.unit}")]
    print_lines(here, lines)


def _large(x: float) -> str:
    return f"{x:,.2f}" if x < 1e3 else f"{x:,.0f}" if x < 1e9 else f"{x:.3g}"
