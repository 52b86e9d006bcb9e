"""What encodes batches: framing, pieces of long documents, gigatoken against tiktoken."""

from __future__ import annotations

import importlib
import importlib.util
import random
import re
import sysconfig
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

import llmc.tokens.encode as under_test
from llmc.errors import Usage
from llmc.text.source import Part
from llmc.tokens.encode import (
    CUT_ANYWHERE,
    CUT_AT_BLANKS,
    Batch,
    Encode,
    Encoded,
    batches,
    choose_encoder,
    cuts_of,
    fast_encoder,
    tiktoken_encoder,
)
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.helpers.awkward import AWKWARD, SOURCES

# GPT-2's pieces and what surrounds them: spaces of all kinds, marks, letters outside the plane.
PIECES = [*" \n\t\r\v\f\x1c\x85\u00a0\u2028\u3000", "'s", "'ll", "I'", "don", "Ä", "é", "e\u0301"]
PIECES += [
    "日",
    "🙂",
    "\u200d",
    "7",
    "½",
    "٣",
    "!",
    "…",
    "<|endoftext|>",
    "<|endof",
    "text|>",
    "\0",
]

needs_fast = pytest.mark.skipif(
    importlib.util.find_spec("gigatoken") is None, reason="gigatoken is not installed"
)


def expected(tokenizer: Tokenizer, documents: list[str]) -> list[int]:
    return [id for text in documents for id in (tokenizer.eot, *tokenizer.encode(text))]


def encoded(encode: Encode, documents: list[str], cuts: re.Pattern[str] | None) -> list[int]:
    return [int(id) for batch in batches(documents, cuts) for id in encode(batch).ids]


def part_of(documents: list[str]) -> Part:
    return Part("text", None, partial(iter, documents))


@pytest.mark.parametrize("characters", [1, 10, 1 << 20])
def test_documents_keep_their_order_in_any_batches(
    bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    monkeypatch.setattr(under_test, "BATCH_CHARACTERS", characters)
    made = list(batches(AWKWARD, cuts_of(bpe)))
    assert (len(made) == 1) == (characters == 1 << 20)
    encode = tiktoken_encoder(bpe)
    assert encoded(encode, AWKWARD, cuts_of(bpe)) == expected(bpe, AWKWARD)
    sizes = sum(encode(batch).text_bytes for batch in made)
    assert sizes == sum(len(text.encode()) for text in AWKWARD)


def test_documents_are_taken_as_they_are_needed(bpe: Tokenizer) -> None:
    taken = []

    def documents() -> Iterator[str]:
        for index in range(100):
            taken.append(index)
            yield "x" * under_test.BATCH_CHARACTERS

    next(batches(documents(), cuts_of(bpe)))
    assert len(taken) <= 2


@given(documents=st.lists(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), max_size=4))
def test_pieces_have_the_tokens_of_the_whole(
    bpe: Tokenizer, gpt2: Tokenizer, documents: list[str]
) -> None:
    """Every place where a document may be cut is cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test, "BATCH_CHARACTERS", 1)
        for tokenizer in (bpe, gpt2):
            encode = tiktoken_encoder(tokenizer)
            assert encoded(encode, documents, CUT_ANYWHERE) == expected(tokenizer, documents)


@pytest.fixture(scope="module")
def newer(gpt2: Tokenizer) -> list[tiktoken.Encoding]:
    """GPT-2's tokens with the patterns of newer encodings, whose own are not on this machine."""
    public = importlib.import_module("tiktoken_ext.openai_public")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public, "load_tiktoken_bpe", lambda *_args, **_kwargs: dict(gpt2.ranks))
        made = [public.ENCODING_CONSTRUCTORS[name]() for name in ("cl100k_base", "o200k_base")]
    return [tiktoken.Encoding(**{**fields, "special_tokens": {}}) for fields in made]


@given(text=st.lists(st.sampled_from(PIECES), max_size=80).map("".join))
def test_pieces_are_safe_in_tiktoken_s_newer_patterns(
    newer: list[tiktoken.Encoding], text: str
) -> None:
    cut = [0, *(match.start() for match in CUT_AT_BLANKS.finditer(text)), len(text)]
    for encoding in newer:
        pieces = [encoding.encode_ordinary(text[start:end]) for start, end in pairwise(cut)]
        assert [id for ids in pieces for id in ids] == encoding.encode_ordinary(text)


def test_a_long_document_is_cut_and_one_without_spaces_is_not(
    bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "BATCH_CHARACTERS", 100)
    document = " ".join(SOURCES)[:20_000]
    made = list(batches([document, "x" * 1000], cuts_of(bpe)))
    assert 100 < len(made) < 250
    assert max(len(text) for batch in made[:-1] for _, text in batch) <= 320
    assert sum(start for batch in made for start, _ in batch) == 2
    assert made[-1][-1][1] == "x" * 1000
    assert [len(batch) for batch in batches([document], None)] == [1]


def test_special_tokens_in_a_document_are_text_unless_asked_otherwise(bpe: Tokenizer) -> None:
    documents = ["a<|endoftext|>b", "c"]
    assert encoded(tiktoken_encoder(bpe), documents, None) == expected(bpe, documents)
    special = tiktoken_encoder(bpe, special=True)
    eot = bpe.eot
    assert encoded(special, documents, None) == [eot, ord("a"), eot, ord("b"), eot, ord("c")]


def test_half_a_surrogate_pair_becomes_a_replacement_character(bpe: Tokenizer) -> None:
    made = tiktoken_encoder(bpe)([(True, "a\ud800b"), (True, "c")])
    assert bpe.detokenize(made.ids.tolist()).decode() == "<|endoftext|>a\ufffdb<|endoftext|>c"
    assert made.text_bytes == 6


def test_ids_are_as_wide_as_the_vocabulary_needs(
    bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiktoken_encoder(bpe)([(True, "a")]).ids.dtype == np.uint16
    monkeypatch.setattr("llmc.tokens.files.UINT16_VOCAB", 256)
    assert tiktoken_encoder(bpe)([(True, "a")]).ids.dtype == np.uint32


def hostile_unicode(every: int) -> list[str]:
    """Return one in ``every`` documents of characters from everywhere, and awkward neighbours."""
    chance = random.Random(1)
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    documents = [
        "".join(chr(point) for point in points[at : at + 4096])
        for at in range(0, len(points), 4096)
    ]
    documents += ["".join(map(chr, chance.choices(points, k=3000))) for _ in range(20)]
    documents += ["".join(map(chr, chance.choices(points[:0x3000], k=3000))) for _ in range(50)]
    documents += ["".join(chance.choices(PIECES, k=3000)) for _ in range(100)]
    return [*documents[::every], *AWKWARD]


@pytest.fixture(scope="module")
def gigatoken(gpt2: Tokenizer) -> Encode:
    exact = tiktoken_encoder(gpt2)

    def only_where_it_must(batch: Batch) -> Encoded:
        assert any("<|endoftext|>" in text for _, text in batch), "tiktoken was asked"
        return exact(batch)

    return fast_encoder(gpt2, "gpt2", only_where_it_must)


@needs_fast
@pytest.mark.parametrize("every", [40, pytest.param(1, marks=pytest.mark.full)])
def test_gigatoken_agrees_over_the_standard_library(
    every: int, gpt2: Tokenizer, gigatoken: Encode
) -> None:
    """Of its files one in ``every``."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts = []
    for path in sorted(folder.rglob("*.py"))[::every]:
        if "site-packages" not in path.parts:
            try:
                texts.append(path.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                continue
    exact = tiktoken_encoder(gpt2)
    for batch in batches(texts, CUT_ANYWHERE):
        assert np.array_equal(gigatoken(batch).ids, exact(batch).ids)


@needs_fast
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.full)])
def test_gigatoken_agrees_on_hostile_unicode(
    every: int, gpt2: Tokenizer, gigatoken: Encode
) -> None:
    documents = hostile_unicode(every)
    assert sum("<|endoftext|>" not in document for document in documents) > 300 // every
    for document in documents:
        assert encoded(gigatoken, [document], CUT_ANYWHERE) == expected(gpt2, [document])


@needs_fast
@given(text=st.text())
def test_gigatoken_agrees_on_any_text(gpt2: Tokenizer, gigatoken: Encode, text: str) -> None:
    assert gigatoken([(True, text)]).ids.tolist() == expected(gpt2, [text])


@needs_fast
def test_gigatoken_agrees_with_a_trained_bpe(bpe: Tokenizer) -> None:
    exact = tiktoken_encoder(bpe)
    assert encoded(fast_encoder(bpe, "gpt2", exact), SOURCES, None) == expected(bpe, SOURCES)


@needs_fast
def test_gigatoken_is_taken_where_it_agrees(gpt2: Tokenizer) -> None:
    parts = [part_of(SOURCES)]
    assert "encoding with gigatoken" in choose_encoder(gpt2, parts, fast=None, special=False).note
    assert choose_encoder(gpt2, parts, fast=False, special=False).note == ""
    assert "using tiktoken" in choose_encoder(gpt2, parts, fast=True, special=True).note


@needs_fast
def test_gigatoken_is_left_where_it_differs_or_fails(
    gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(tokenizer: Tokenizer, scheme: str, exact: Encode) -> Encode:
        def encode(batch: Batch) -> Encoded:
            made = exact(batch)
            return Encoded(made.ids[::-1], made.text_bytes)

        return encode

    def failing(*_args: object) -> Encode:
        raise OSError("no")

    for replacement, words in ((wrong, "differ"), (failing, r"failed \(OSError\)")):
        monkeypatch.setattr(under_test, "fast_encoder", replacement)
        chosen = choose_encoder(gpt2, [part_of(SOURCES)], fast=None, special=False)
        assert re.search(words, chosen.note)
        assert encoded(chosen.encode, SOURCES[:3], None) == expected(gpt2, SOURCES[:3])


def test_without_gigatoken_tiktoken_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    byte = load_tokenizer("byte")
    assert choose_encoder(byte, [], fast=None, special=False).note == ""
    with pytest.raises(Usage, match=r"pip install .*\[fast\]"):
        choose_encoder(byte, [], fast=True, special=False)
