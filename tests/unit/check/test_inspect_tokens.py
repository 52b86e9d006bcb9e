"""inspect on token files: counts, statistics, text that is safe to print."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.check.inspect.describe import describe
from llmc.check.inspect.description import quoted, safe_text
from llmc.check.inspect.statistics import MOST_IDS, Moments, TokenCounts
from llmc.cli.views.inspection import plain_lines
from llmc.errors import Usage
from llmc.paths import Workspace
from llmc.tokens.dataset import tokenize
from llmc.tokens.files import write_tokens
from llmc.tokens.masks import mask_path
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.tokenizer import Tokenizer
from tests.helpers.examples import examples
from tests.helpers.inspecting import asked, documents, looked_at, told_problem
from tests.helpers.models import random_tokens, save_tokens

TEXT = "one two\nthree \x1b[31mred\x1b[0m ünï 日本 \u202e\n"


# Token files


def test_a_token_file_in_full(tmp_path: Path, byte: Tokenizer) -> None:
    texts = ["a", "bbb", "", TEXT, "bb"]
    ids = documents(byte, *texts)
    path = save_tokens(tmp_path / "t", np.array(ids), byte.vocab_size)
    told = looked_at(path, tokenizer=byte)
    assert told["problems"] == []
    assert (told["kind"], told["format"], told["tokens"]) == ("tokens", "uint16", len(ids))
    assert told["first_tokens"] == ids[:64]
    assert told["documents"] == len(texts)
    lengths = sorted(len(text.encode()) for text in texts)
    assert told["document_lengths"] == {
        "min": 0,
        "median": float(np.median(lengths)),
        "mean": pytest.approx(np.mean(lengths)),
        "max": lengths[-1],
    }
    assert told["distinct"] == len(set(ids))
    frequent = [(row["id"], row["times"]) for row in told["most_frequent"]]
    assert frequent == sorted(Counter(ids).items(), key=lambda item: (-item[1], item[0]))[:12]
    assert told["most_frequent"][0]["text"] == bytes([frequent[0][0]]).decode()


def test_a_mask_says_where_the_loss_counts(tmp_path: Path) -> None:
    path, mask = tmp_path / "t.bin", np.array([6, 0, 1, 1, 4, 1], "u1")
    write_tokens(path, [(np.arange(6), mask)], 10, masked=True)
    told = looked_at(path)
    assert (told["counted"], told["conversations"], told["turns"]) == (3, 1, 2)
    raw = mask_path(path).read_bytes()
    mask_path(path).write_bytes(raw[:-1] + b"\0")
    (problem,) = looked_at(path)["problems"]
    assert str(mask_path(path)) in problem


def test_a_mask_by_itself(tmp_path: Path) -> None:
    path, mask = tmp_path / "t.bin", np.array([6, 0, 1, 1, 4, 1], "u1")
    write_tokens(path, [(np.arange(6), mask)], 10, masked=True)
    told = looked_at(mask_path(path))
    assert (told["kind"], told["tokens"], told["token_file"]) == ("mask", 6, "t.bin")
    assert (told["counted"], told["conversations"], told["turns"]) == (3, 1, 2)
    raw = mask_path(path).read_bytes()
    for broken in (raw[:-1], raw[:-1] + b"\0", raw[:4] + b"\2" + raw[5:], raw[:600]):
        mask_path(path).write_bytes(broken)
        assert looked_at(mask_path(path))["problems"]


def test_a_dataset_is_as_whole_as_its_masks(tmp_path: Path) -> None:
    lines = [{"prompt": f"{n}?", "completion": f"It is {n}"} for n in range(40)]
    text = tmp_path / "talk.jsonl"
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = tokenize(Workspace(tmp_path), [str(text)], TokenizeOptions(tokenizer="byte"))
    train, _ = looked_at(made.folder)["parts"]
    assert train["conversations"] * 2 > train["turns"] > 0 < train["counted"]
    mask = made.folder / "train.mask"
    raw = mask.read_bytes()
    other = bytes([raw[1024] ^ 1]) + raw[1025:]
    mask.write_bytes(raw[:1024] + other)
    assert str(mask) in told_problem(made.folder)
    mask.write_bytes(raw[:12] + zlib.crc32(other).to_bytes(4, "little") + raw[16:1024] + other)
    assert "manifest" in told_problem(made.folder)


def test_text_does_nothing_to_a_terminal(tmp_path: Path, byte: Tokenizer) -> None:
    ids = documents(byte, TEXT)
    path = save_tokens(tmp_path / "t", np.array([*ids, 255, 254]), byte.vocab_size)
    lines = "\n".join(plain_lines(describe(path, asked(tmp_path, tokenizer=byte))))
    assert r"one two\nthree \x1b[31mred\x1b[0m ünï 日本 \u202e\n\xff\xfe" in lines
    assert "\x1b" not in lines


@given(st.binary(max_size=300), st.sampled_from([1, 10, 1000]))
def test_bytes_are_shown_in_printable_characters(data: bytes, limit: int) -> None:
    shown = quoted(data, limit)
    assert shown.isprintable()
    if limit == 1000:
        # Nothing is lost: the escapes give the bytes back.
        parts = shown[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape")
        assert len(parts) >= len(data.decode(errors="replace"))


@settings(max_examples=examples(50))
@given(st.text(max_size=50))
def test_text_is_shown_in_printable_characters(text: str) -> None:
    assert safe_text(text).isprintable()


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_a_token_file_cut_short_says_by_how_much(tmp_path: Path, cut: int) -> None:
    path = save_tokens(tmp_path / "t", random_tokens(1000, 300), 300)
    path.write_bytes(path.read_bytes()[:-cut])
    told = looked_at(path)
    assert (
        f"it is cut short: its header promises 1,000 tokens in 3,024 bytes, and {cut:,} bytes "
        in (told["problems"][0])
    )
    assert told["tokens"] == 1000
    assert len(told["first_tokens"]) == 64


def test_a_token_file_in_need_of_an_explanation(tmp_path: Path, byte: Tokenizer) -> None:
    path = save_tokens(tmp_path / "t", random_tokens(100, 300), 300)
    data = path.read_bytes()
    wrong = {
        b"".join(
            [data, b"\0"]
        ): "too long: its header promises 100 tokens in 1,224 bytes, and 1 more",
        data[:4] + struct.pack("<I", 9) + data[8:]: "version 9",
        data[:1000]: "1000 bytes of its header's 1024",
    }
    for changed, sentence in wrong.items():
        path.write_bytes(changed)
        assert sentence in looked_at(path)["problems"][0]
    path = save_tokens(tmp_path / "t", np.array([5, 300, 256]), 301)
    (problem,) = looked_at(path, tokenizer=byte)["problems"]
    assert "1 tokens lie outside the vocabulary of the tokenizer byte (257)" in problem


def test_wide_tokens(tmp_path: Path) -> None:
    ids = np.array([0, 70000, 70000, 3])
    told = looked_at(save_tokens(tmp_path / "t", ids, 100_000))
    assert (told["format"], told["largest"], told["distinct"]) == ("uint32", 70000, 3)
    assert told["most_frequent"][0] == {"id": 70000, "times": 2, "share": 0.5}


def test_tokens_beyond_any_vocabulary_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "t"
    np.array([1, -1, 2**31 - 1, 5], "<i4").tofile(path)
    tracemalloc.start()
    told = looked_at(path, dtype="int32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "2 tokens are 16,777,216 or more (or negative)" in told["problems"][0]
    assert peak < 50e6


def test_headerless_tokens(tmp_path: Path, byte: Tokenizer) -> None:
    ids = documents(byte, "abc", "de")
    for dtype, kind in (("uint16", "<u2"), ("int32", "<i4")):
        path = tmp_path / dtype
        np.array(ids, kind).tofile(path)
        told = looked_at(path, dtype=dtype, tokenizer=byte)
        assert (told["tokens"], told["documents"], told["problems"]) == (len(ids), 2, [])
        path.write_bytes(path.read_bytes()[:-1])
        assert "not a whole number" in looked_at(path, dtype=dtype)["problems"][0]
    with pytest.raises(Usage, match="has a header of its own"):
        looked_at(save_tokens(tmp_path / "t", np.array([1]), 9), dtype="uint16")


def test_a_large_file_is_sampled_unless_all_is_asked_for(tmp_path: Path, byte: Tokenizer) -> None:
    ids = documents(byte, *["x" * 99] * 2000)
    path = save_tokens(tmp_path / "t", np.array(ids), byte.vocab_size)
    told = looked_at(path, tokenizer=byte, left=1000)
    assert told["sha256"] is None
    assert 0 < told["looked_at"] <= told["tokens"] == len(ids)
    assert set(told["document_lengths"].values()) == {99}
    whole = looked_at(path, tokenizer=byte, full=True, left=0)
    assert whole["documents"] == 2000
    assert "looked_at" not in whole


# Statistics


@given(
    st.lists(st.integers(0, 6), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([np.uint16, np.uint32]),
)
def test_counts_do_not_depend_on_the_pieces(ids: list[int], cuts: list[int], kind: Any) -> None:
    counts = TokenCounts(eot=6)
    array = np.array(ids, kind)
    for part in np.split(array, sorted(min(cut, len(ids)) for cut in cuts)):
        counts.add(part)
    counts.close()
    assert counts.tokens == len(ids)
    assert dict(counts.most_frequent(9)) == dict(Counter(ids))
    segments: list[list[int]] = [[]]
    for token in ids:
        if token == counts.eot:
            segments.append([])
        else:
            segments[-1].append(token)
    if segments and not segments[0]:
        segments = segments[1:]
    if segments and not segments[-1]:
        segments = segments[:-1]
    assert counts.lengths == Counter(map(len, segments))
    assert counts.documents == len(segments)


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=50),
    st.integers(0, 50),
)
def test_moments_are_numpy_s(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    found = Moments()
    for part in (array[:cut], array[cut:]):
        found.add(part)
    finite = array[np.isfinite(array)].astype(np.float64)
    assert found.nan == np.isnan(array).sum()
    assert found.infinite == np.isinf(array).sum()
    assert found.count == finite.size
    if finite.size:
        scale = float(np.abs(finite).max()) or 1.0
        assert found.mean == pytest.approx(finite.mean(), abs=1e-9 * scale)
        assert found.std == pytest.approx(finite.std(), abs=1e-6 * scale)
        assert (found.low, found.high) == (finite.min(), finite.max())


def test_a_spread_of_ids_beyond_the_table_is_counted() -> None:
    counts = TokenCounts()
    counts.add(np.array([1, MOST_IDS, 2**32 - 1], np.uint32))
    assert (counts.beyond, counts.distinct, counts.above(1), counts.largest) == (2, 1, 3, 1)
