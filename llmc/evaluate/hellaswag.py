"""HellaSwag, scored as in llm.c: which of four endings does the model find most likely?

Zellers et al. 2019, "HellaSwag: Can a Machine Really Finish Your Sentence?"; the validation file is
github.com/rowanz/hellaswag's ``data/hellaswag_val.jsonl``, one JSON object per line:
``{"ctx": "A man sits on a roof. he", "endings": ["…", "…", "…", "…"], "label": 3, …}``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmc.errors import BadData, Interrupted, MissingOutput
from llmc.evaluate.rows import EngineOptions, EngineRun, RowEngine
from llmc.evaluate.statistics import Ratio, proportion
from llmc.evaluate.target import EvaluatedModel, find_evaluated
from llmc.fetch.registry import HELLASWAG, fetched_files
from llmc.parsing import from_json, read_limited
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.tokens.files import write_rows, write_tokens
from llmc.tokens.tokenizer import Tokenizer

ENDINGS = 4


@dataclass(frozen=True)
class Example:
    """A question: a context, four endings, and the index of the right one."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Row:
    """The context with one ending."""

    ids: list[int]  # tokens of the context and the ending
    start: int  # index of the first predicted token
    cut: int = 0  # tokens that were cut off at the front


def read_examples(path: Path) -> list[Example]:
    """Read questions from a JSONL file as published.

    Raises:
        BadData: the file cannot be read, has no questions, or a line is not a question.
    """
    examples = []
    try:
        lines = read_limited(path).decode().split("\n")
    except (OSError, ValueError) as error:
        raise BadData(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}; "
            "get it with 'llmc fetch hellaswag'"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            examples.append(_example(line, f"{path}, line {number},"))
    if not examples:
        raise BadData(f"{path} holds no examples: get the file with 'llmc fetch hellaswag'")
    return examples


def _example(line: str, where: str) -> Example:
    """Return the question in a line, or raise BadData."""
    try:
        item: dict[str, Any] = from_json(line)
        context, endings, label = item["ctx"], item["endings"], item.get("label")
        if not isinstance(context, str) or not context:
            raise ValueError("ctx should be a text")
        if not isinstance(endings, list) or len(endings) != ENDINGS:
            raise ValueError(f"endings should be {ENDINGS} texts")
        if not all(isinstance(ending, str) for ending in endings):
            raise ValueError("an ending should be a text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(
            f"{where} is not an example of HellaSwag ({type(error).__name__}: {error}); "
            "get the file with 'llmc fetch hellaswag'"
        ) from error
    if label in ("", None):
        raise BadData(f"{where} has no label, like all of the test split: use hellaswag_val.jsonl")
    # Some copies write the label as a text.
    if type(label) is bool or str(label) not in map(str, range(ENDINGS)):
        raise BadData(f"{where} has the label {label!r}, not one of 0 to 3: get another copy")
    return Example(context, tuple(endings), int(label))


def chosen(examples: Sequence[Example], most: int | None) -> Sequence[Example]:
    """Return ``most`` examples, evenly spaced, because the file is sorted by kind."""
    if most is None or most >= len(examples):
        return examples
    return [examples[index * len(examples) // most] for index in range(most)]


def rows_of(example: Example, tokenizer: Tokenizer, positions: int) -> list[Row]:
    """Return one row per ending: the context's tokens, then those of a space and the ending.

    The two are tokenized separately, as in llm.c, without an end-of-text token in front. A row
    longer than the model's ``positions`` plus one keeps its end.
    """
    context = tokenizer.encode(example.context)
    return [
        shortened(Row([*context, *tokenizer.encode(f" {ending}")], len(context)), positions)
        for ending in example.endings
    ]


def shortened(row: Row, positions: int) -> Row:
    """Return the end of a row that is too long for the model; its first token is not predicted."""
    over = max(0, len(row.ids) - (positions + 1))
    return Row(row.ids[over:], max(1, row.start - over), over)


def table_of(rows: Sequence[Row]) -> Iterator[tuple[int, int, int]]:
    """Yield (start, length, from) of rows whose tokens are consecutive in a file."""
    at = 0
    for row in rows:
        yield at, len(row.ids), row.start
        at += len(row.ids)


@dataclass
class Accuracy:
    """Counts the questions whose right ending has the lowest loss.

    ``acc`` compares the sums of the endings' losses, ``acc_norm`` their means, so that length does
    not matter. The first of equal losses wins.
    """

    labels: Sequence[int]
    hits: int = 0
    hits_norm: int = 0
    done: int = 0
    _losses: list[Sequence[float]] = field(default_factory=list)

    def add(self, losses: Sequence[float]) -> None:
        """Add the losses of the next ending's tokens."""
        self._losses.append(losses)
        if len(self._losses) < ENDINGS:
            return
        sums = [sum(ending) for ending in self._losses]
        means = [total / len(ending) for total, ending in zip(sums, self._losses, strict=True)]
        label = self.labels[self.done]
        self.hits += sums.index(min(sums)) == label
        self.hits_norm += means.index(min(means)) == label
        self.done += 1
        self._losses.clear()

    @property
    def acc(self) -> Ratio:
        """Share of questions whose right ending has the lowest sum; needs one question."""
        return proportion(self.hits, self.done)

    @property
    def acc_norm(self) -> Ratio:
        """Share of questions whose right ending has the lowest mean; llm.c reports this one."""
        return proportion(self.hits_norm, self.done)

    def shown(self) -> str:
        """Return both in percent, with standard errors."""
        return f"acc_norm {self.acc_norm.shown(100, 2)} %, acc {self.acc.shown(100, 2)} %"


@dataclass(frozen=True)
class HellaSwagResult:
    """What :func:`evaluate_hellaswag` measured."""

    model: EvaluatedModel
    engine: EngineRun
    data: Path  # the file of questions
    accuracy: Accuracy
    rows: int  # endings that were scored
    cut: int  # endings cut at the front because the model's context is too short


def evaluate_hellaswag(
    workspace: Workspace,
    target: str | Path | None = None,
    *,
    data: Path | None = None,
    max_examples: int | None = None,
    last: bool = False,
    options: EngineOptions | None = None,
    report: Report = SILENT,
) -> HellaSwagResult:
    """Score a model on HellaSwag by llm.c's protocol.

    ``target`` is a run's name, its folder, or a checkpoint; by default the newest run. ``data`` is
    the published JSONL file; by default the fetched one. With ``max_examples``, N questions are
    asked, evenly spaced. ``last`` scores a run's last weights instead of its best.

    Raises:
        MissingOutput: the model or the file does not exist.
        BadData: the file has another format, or the model's tokenizer is unknown.
        LlmcError: the engine failed or was interrupted.
    """
    options = options or EngineOptions()
    options = replace(options, batch_size=options.batch_size or ENDINGS)
    model = find_evaluated(workspace, target, report, last=last)
    path = data if data is not None else fetched_files(workspace, HELLASWAG)[0]
    if not path.is_file():
        raise MissingOutput(f"there is no file {path}: get it with 'llmc fetch hellaswag'")
    tokenizer, shown = model.found.tokenizer(workspace), workspace.shown(model.checkpoint)
    if tokenizer is None:
        raise BadData(
            f"the tokenizer of {shown} is unknown, and HellaSwag's text needs it: evaluate a run, "
            "or add the dataset that the model was trained on to the workspace"
        )
    report.note(f"data: {workspace.shown(path)}")
    report.note(f"model: {shown}; tokenizer: {tokenizer.name}")
    engine = RowEngine(model.checkpoint, options, report)
    examples = chosen(read_examples(path), max_examples)
    positions = model.header.config.context
    rows = [row for example in examples for row in rows_of(example, tokenizer, positions)]
    accuracy = Accuracy([example.label for example in examples])
    total = sum(len(row.ids) - row.start for row in rows)
    with (
        tempfile.TemporaryDirectory(prefix="llmc-eval.") as name,
        report.bar("HellaSwag", total, "tokens") as advance,
    ):
        files = write_row_files(Path(name), rows, tokenizer)
        try:
            for row in engine.rows(*files, advance=advance):
                accuracy.add(row["losses"])
        except Interrupted as stop:
            so_far = f"; so far {accuracy.shown()}" if accuracy.done else ""
            raise Interrupted(
                f"interrupted after {accuracy.done:,} of {len(examples):,} questions{so_far}"
            ) from stop
    cut = sum(row.cut > 0 for row in rows)
    return HellaSwagResult(model, engine.finished(), path, accuracy, len(rows), cut)


def write_row_files(folder: Path, rows: Sequence[Row], tokenizer: Tokenizer) -> list[str]:
    """Write the rows in the engine's format; return the flags that name the files."""
    import numpy as np

    tokens, table = folder / "tokens.bin", folder / "rows.bin"
    write_tokens(tokens, (np.array(row.ids) for row in rows), tokenizer.vocab_size)
    write_rows(table, table_of(rows))
    return ["--data", str(tokens), "--rows", str(table)]
