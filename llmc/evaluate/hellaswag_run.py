"""A model asked HellaSwag's questions: its endings through the engine, and what is said of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from llmc.cli.context import Context
from llmc.engine.build import ensure_native
from llmc.errors import BadData, Interrupted, MissingOutput
from llmc.evaluate.hellaswag import Results, Row, chosen, read_examples, rows_of, table_of
from llmc.evaluate.loss import Progress, error_text, evaluated_rows, print_lines, progress_bar
from llmc.evaluate.statistics import Ratio
from llmc.evaluate.target import Subject
from llmc.text.source import HELLASWAG, fetched_files
from llmc.tokens.files import write_tokens
from llmc.tokens.rows import write_rows
from llmc.tokens.tokenizer import Tokenizer


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
    binary = ensure_native(report=here.ui)
    examples = chosen(read_examples(path), most)
    positions = subject.header.config.context
    rows = [row for example in examples for row in rows_of(example, tokenizer, positions)]
    cut = sum(row.cut > 0 for row in rows)
    results = Results([example.label for example in examples])
    progress = Progress(total=sum(len(row.ids) - row.start for row in rows))
    with tempfile.TemporaryDirectory(prefix="llmc-eval.") as name:
        argv = [str(binary), "eval", *_written(Path(name), rows, tokenizer), *flags]
        try:
            with progress_bar(here, "HellaSwag", progress.total) as advance:
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
    return f"{100 * value.value:.2f}{error_text(value, 100, 2)} %"


def _report_hellaswag(here: Context, results: Results) -> None:
    lines = [
        ("acc_norm", f"{_share(results.acc_norm)} (by the mean loss of the ending's tokens)"),
        ("acc", f"{_share(results.acc)} (by their sum)"),
        ("questions", f"{results.done:,}; guessing gives 25 %"),
    ]
    print_lines(here, lines)
