"""HellaSwag, as llm.c scores it: which of four endings does the model find likeliest?

Zellers et al. 2019, "HellaSwag: Can a Machine Really Finish Your Sentence?"; the validation file is
github.com/rowanz/hellaswag's ``data/hellaswag_val.jsonl``, one JSON object a line:
``{"ctx": "A man sits on a roof. he", "endings": ["…", "…", "…", "…"], "label": 3, …}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.errors import BadData
from llmc.evaluate.statistics import Ratio, proportion
from llmc.tokens.tokenizer import Tokenizer

ENDINGS = 4


@dataclass(frozen=True)
class Example:
    """A context, four endings, and which of them is the right one."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Row:
    """What the model reads for one ending.

    Attributes:
        ids: tokens of the context and the ending.
        start: the tokens from there on are predicted.
        cut: tokens that were cut off in front.
    """

    ids: list[int]
    start: int
    cut: int = 0


def read_examples(path: Path) -> list[Example]:
    """Read the published JSONL form.

    Raises:
        BadData: the file cannot be read, holds no examples, or a line is not one.
    """
    examples = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    examples.append(_example(line, f"{path}, line {number},"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}; "
            "get it with 'llmc fetch hellaswag'"
        ) from error
    if not examples:
        raise BadData(f"{path} holds no examples: get the file with 'llmc fetch hellaswag'")
    return examples


def _example(line: str, where: str) -> Example:
    """Return the example of a line.

    Raises:
        BadData: it is not one.
    """
    try:
        item: dict[str, Any] = json.loads(line)
        context, endings, label = item["ctx"], item["endings"], item.get("label")
        if not isinstance(context, str) or not context:
            raise ValueError("ctx should be a text")
        if not isinstance(endings, list) or len(endings) != ENDINGS:
            raise ValueError(f"endings should be {ENDINGS} texts")
        if not all(isinstance(ending, str) for ending in endings):
            raise ValueError("an ending should be a text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
    """Return ``most`` of the examples, evenly spread: the file has one kind after the other."""
    if most is None or most >= len(examples):
        return examples
    return [examples[index * len(examples) // most] for index in range(most)]


def rows_of(example: Example, tokenizer: Tokenizer, positions: int) -> list[Row]:
    """Return a row per ending: the context's tokens, then those of a space and the ending.

    Both are tokenized by themselves, as llm.c does, without an end-of-text token before. A row
    longer than the model's ``positions`` and the token after them keeps its end.
    """
    context = tokenizer.encode(example.context)
    return [
        shortened(Row([*context, *tokenizer.encode(f" {ending}")], len(context)), positions)
        for ending in example.endings
    ]


def shortened(row: Row, positions: int) -> Row:
    """Return the row's end, as long as the model can read; the first token is not predicted."""
    over = max(0, len(row.ids) - (positions + 1))
    return Row(row.ids[over:], max(1, row.start - over), over)


def table_of(rows: Sequence[Row]) -> Iterator[tuple[int, int, int]]:
    """Yield (start, length, from) of rows whose tokens stand one after the other in a file."""
    at = 0
    for row in rows:
        yield at, len(row.ids), row.start
        at += len(row.ids)


@dataclass
class Results:
    """Counts which endings the model found likeliest.

    ``acc`` goes by the sum of an ending's losses, ``acc_norm`` by their mean, so that length does
    not count; the lowest wins, the first of equals.
    """

    labels: Sequence[int]
    hits: int = 0
    hits_norm: int = 0
    done: int = 0
    _losses: list[Sequence[float]] = field(default_factory=list)

    def add(self, losses: Sequence[float]) -> None:
        """Take in the losses of the tokens of the next ending."""
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
        """Share of examples whose right ending has the lowest sum; of at least one example."""
        return proportion(self.hits, self.done)

    @property
    def acc_norm(self) -> Ratio:
        """Share of examples whose right ending has the lowest mean: llm.c's figure."""
        return proportion(self.hits_norm, self.done)
