"""HellaSwag by llm.c's protocol, against PyTorch and by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from llmc.check.torch_model import GPT2
from llmc.errors import BadData
from llmc.evaluate.hellaswag import (
    Accuracy,
    Example,
    Row,
    chosen,
    read_examples,
    rows_of,
    shortened,
    table_of,
    write_row_files,
)
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.helpers.engine import Native, succeeded
from tests.helpers.events import json_lines
from tests.helpers.models import RAGGED, save_model, some_tensors

# A line as it was published.
PUBLISHED: Mapping[str, Any] = {
    "ind": 24,
    "activity_label": "Roof shingle removal",
    "ctx_a": "A man is sitting on a roof.",
    "ctx_b": "he",
    "ctx": "A man is sitting on a roof. he",
    "split": "val",
    "split_type": "indomain",
    "label": 3,
    "endings": [
        "is using wrap to wrap a pair of skis.",
        "is ripping level tiles off.",
        "is holding a rubik's cube.",
        "starts pulling up roofing on a roof.",
    ],
    "source_id": "activitynet~v_-JhWjGDPHMY",
}


def write(path: Path, *items: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_the_published_form_is_read(tmp_path: Path) -> None:
    other = {**PUBLISHED, "ctx": "Größe", "label": "0"}  # as some copies write it
    expected = Example(PUBLISHED["ctx"], tuple(PUBLISHED["endings"]), 3)
    path = write(tmp_path / "val.jsonl", PUBLISHED, other)
    assert read_examples(path) == [expected, Example("Größe", tuple(PUBLISHED["endings"]), 0)]
    path.write_text(path.read_text() + "\n")
    assert len(read_examples(path)) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2, is not an example"),
        ("[]", "line 2, is not an example"),
        ("7", "line 2, is not an example"),
        ("[" * 100_000, "line 2, is not an example"),
        (json.dumps({"ctx": "a"}), "KeyError"),
        (json.dumps({**PUBLISHED, "ctx": ""}), "ctx should be a text"),
        (json.dumps({**PUBLISHED, "ctx": 3}), "ctx should be a text"),
        (json.dumps({**PUBLISHED, "endings": ["a"] * 3}), "endings should be 4 texts"),
        (json.dumps({**PUBLISHED, "endings": "abcd"}), "endings should be 4 texts"),
        (json.dumps({**PUBLISHED, "endings": [1, 2, 3, 4]}), "an ending should be a text"),
        (json.dumps({**PUBLISHED, "label": 4}), "has the label 4"),
        (json.dumps({**PUBLISHED, "label": True}), "has the label True"),
        (json.dumps({**PUBLISHED, "label": [3]}), "has the label [3]"),
        (json.dumps({**PUBLISHED, "label": ""}), "use hellaswag_val.jsonl"),
        (json.dumps({k: v for k, v in PUBLISHED.items() if k != "label"}), "use hellaswag_val"),
    ],
)
def test_what_is_no_example_is_refused(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(PUBLISHED) + "\n" + line + "\n")
    with pytest.raises(BadData) as caught:
        read_examples(path)
    assert said in str(caught.value)
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe{}", None])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadData, match="llmc fetch hellaswag"):
        read_examples(path)


def test_some_of_them_are_evenly_spread() -> None:
    examples = [Example(str(index), ("a",) * 4, 0) for index in range(10)]
    assert [int(one.context) for one in chosen(examples, 4)] == [0, 2, 5, 7]
    assert chosen(examples, None) == chosen(examples, 10) == chosen(examples, 99) == examples


def test_rows_are_llm_c_s(gpt2: Tokenizer, tmp_path: Path) -> None:
    """The context and a space with the ending are tokenized each by itself."""
    (example,) = read_examples(write(tmp_path / "val.jsonl", PUBLISHED))
    rows = rows_of(example, gpt2, 1024)
    context = gpt2.encode("A man is sitting on a roof. he")
    assert [row.start for row in rows] == [len(context)] * 4
    assert all(row.ids[: row.start] == context for row in rows)
    assert gpt2.detokenize(rows[1].ids[rows[1].start :]) == b" is ripping level tiles off."
    assert rows[1].ids[rows[1].start :] == [318, 34759, 1241, 19867, 572, 13]
    assert list(table_of(rows[:2])) == [
        (0, len(rows[0].ids), len(context)),
        (len(rows[0].ids), len(rows[1].ids), len(context)),
    ]


def test_a_row_that_is_too_long_keeps_its_end() -> None:
    row = Row(list(range(20)), 15)
    assert shortened(row, 19) == shortened(row, 100) == row
    assert shortened(row, 18) == Row(list(range(1, 20)), 14, 1)
    assert shortened(row, 5) == Row(list(range(14, 20)), 1, 14)
    assert shortened(row, 3) == Row(list(range(16, 20)), 1, 16)


def test_the_lowest_loss_wins() -> None:
    results = Accuracy([1, 2])
    for losses in ([1.0] * 4, [2.0], [0.9] * 3, [3.0, 0.1]):  # by sum the second, by mean the third
        results.add(losses)
    for losses in ([1.0], [1.0], [0.5, 0.3], [2.0]):
        results.add(losses)
    assert (results.done, results.hits, results.hits_norm) == (2, 2, 1)
    assert results.acc.value == 1
    assert results.acc_norm.value == 0.5


def padded_losses(model: GPT2, rows: list[Row]) -> tuple[list[float], list[float]]:
    """Return sums and means as llm.c takes them: four padded rows, a mask, everything shifted."""
    width = max(len(row.ids) for row in rows)
    tokens, mask = torch.zeros((4, width), dtype=torch.long), torch.zeros((4, width))
    for i, row in enumerate(rows):
        tokens[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, row.start : len(row.ids)] = 1
    with torch.no_grad():
        logits, _ = model(tokens[:, :-1])
    losses = functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    ).view(4, -1)
    sums = (losses * mask[:, 1:]).sum(1)
    return sums.tolist(), (sums / mask[:, 1:].sum(1)).tolist()


EXAMPLES = [
    Example("The cat", ("sat on the mat.", "sat.", "flies to the moon and back", "ß"), 1),
    Example("a", ("", "b", "bb", "bbb bbb bbb"), 0),
    Example("Where is the context that no small model can hold? It", ("is", "s", "t", "u"), 3),
    Example("Im Süden", ("endings " * 9, "x", "that do not fit, either, at all, no", "y"), 2),
] * 3


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_choices_and_losses_are_pytorch_s(batch_size: int, native: Native, tmp_path: Path) -> None:
    byte = load_tokenizer("byte")
    tensors = some_tensors(RAGGED)
    model = GPT2(RAGGED).load(tensors)
    save_model(tmp_path / "model.bin", RAGGED, tensors)
    rows = [row for example in EXAMPLES for row in rows_of(example, byte, RAGGED.context)]
    assert any(row.cut for row in rows) and not all(row.cut for row in rows)
    flags = dict(zip(*[iter(write_row_files(tmp_path, rows, byte))] * 2, strict=True))
    done = native(
        "eval",
        model=tmp_path / "model.bin",
        events="json",
        batch_size=batch_size,
        **{name.removeprefix("--"): value for name, value in flags.items()},
    )
    losses = [line["losses"] for line in json_lines(succeeded(done).stdout)[1:]]
    results, hits, hits_norm = Accuracy([example.label for example in EXAMPLES]), 0, 0
    for i, example in enumerate(EXAMPLES):
        of_one = losses[4 * i : 4 * i + 4]
        sums, means = padded_losses(model, rows[4 * i : 4 * i + 4])
        assert [sum(row) for row in of_one] == pytest.approx(sums, rel=1e-5)
        assert [sum(row) / len(row) for row in of_one] == pytest.approx(means, rel=1e-5)
        hits += sums.index(min(sums)) == example.label
        hits_norm += means.index(min(means)) == example.label
        for row in of_one:
            results.add(row)
    assert (results.hits, results.hits_norm, results.done) == (hits, hits_norm, len(EXAMPLES))
