"""Texts that a tokenizer's library refuses: long runs of white space have tiktoken's tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.errors import BadData
from llmc.paths import Workspace
from llmc.text.documents import ENDOFTEXT
from llmc.text.source import Part
from llmc.tokens import encode, runs
from llmc.tokens.byte_level import Vocabulary
from llmc.tokens.dataset import tokenize
from llmc.tokens.encode import choose_encoder, exact_encoder, fast_encoder
from llmc.tokens.held import held_tokenizer
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.runs import Unencodable, encode_carefully
from llmc.tokens.tokenizer import Tokenizer, assembled, load_tokenizer
from llmc.tokens.tokenizer_json import table_of
from llmc.tokens.vocabulary import PATTERNS, ranks_of, single_bytes
from tests.helpers.examples import examples

MERGED = [*single_bytes(), b"  ", b"    ", b"\n\n", b" \n", b" a", b"!\n", b"\t\t", b" !"]
LETTERS = " \t\n\r\x0b\x85\xa0\u3000aB1!/'\u0301\x1cé🙂"
MILLION = 1_000_001


def tokenizer(pattern: str, tokens: Sequence[bytes] = MERGED) -> Tokenizer:
    return assembled(pattern, ranks_of(tokens), PATTERNS[pattern], {ENDOFTEXT: len(tokens)})


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text(LETTERS, max_size=24))
@settings(max_examples=examples(400), derandomize=True)
def test_a_text_has_tiktoken_s_tokens_wherever_it_is_cut(text: str, pattern: str) -> None:
    made = tokenizer(pattern)
    assert isinstance(made.encoding, tiktoken.Encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "LONG_RUN", re.compile(f"{runs.SPACE}{{2,}}"))
        found = encode_carefully(made, made.encoding, text, set())
        assert found == made.encoding.encode_ordinary(text)
        special = encode_carefully(made, made.encoding, f"{text}{ENDOFTEXT}{text}", {ENDOFTEXT})
        assert special == [*found, made.eot, *found]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "text",
    [
        " " * 300_000 + "x",
        "x" + "\t \n" * 100_000 + " y",
        "!" + "\n" * 200_000 + " \n  z",
        "a" + "\n " * 150_000,
    ],
)
def test_long_runs_that_tiktoken_can_encode_have_its_tokens(text: str, pattern: str) -> None:
    made = tokenizer(pattern)
    assert isinstance(made.encoding, tiktoken.Encoding)
    found = encode_carefully(made, made.encoding, text, set())
    assert found == made.encoding.encode_ordinary(text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_runs_that_tiktoken_gives_up_on_are_encoded(pattern: str) -> None:
    made = tokenizer(pattern)
    for text in (" " * MILLION + "x", "a\n" + " " * MILLION, "a" + " \n" * MILLION + "b"):
        ids = made.encode(text)
        assert made.detokenize(ids) == text.encode()
        batch = [(True, text), (True, "the next document")]
        encoded = exact_encoder(made)(batch)
        assert list(encoded.ids) == [made.eot, *ids, made.eot, *made.encode("the next document")]


def test_a_text_of_a_million_spaces_becomes_a_dataset(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (workspace.root / "s.txt").write_text(" " * MILLION + "x\n")
    made = tokenize(
        workspace, [str(tmp_path / "s.txt")], TokenizeOptions(tokenizer="byte", val_tokens=0)
    )
    assert sum(file.tokens for file in made.manifest.token_files("train")) == MILLION + 3


class Panic(BaseException):
    """What pyo3 makes of a panic."""


Panic.__name__ = "PanicException"


def part(name: str, text: str) -> Part:
    return Part(name, len(text), partial(iter, [text]))


def test_a_text_that_cannot_be_encoded_is_named(tmp_path: Path) -> None:
    for name in ("good.txt", "bad.txt"):
        (tmp_path / name).write_text("fine" if name == "good.txt" else "a" * 1000 + "c")
    made = assembled("tiktoken", ranks_of(MERGED), r"(a|aa)+\1b|.", {ENDOFTEXT: len(MERGED)})
    with pytest.raises(BadData, match=r"bad\.txt.*tiktoken"):
        tokenize(Workspace(tmp_path), [str(tmp_path)], TokenizeOptions(tokenizer=made))
    with pytest.raises(Unencodable):
        made.encode("a" * 1000 + "c")


@pytest.mark.parametrize("failure", [Panic("it broke"), ValueError("it broke")])
def test_a_panic_of_gigatoken_leaves_the_work_to_tiktoken(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    made = load_tokenizer("byte")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(encode, "fast_encoder", fail)
    chosen = choose_encoder(made, [part("a.txt", "text")], fast=None, special=False)
    assert "gigatoken failed" in chosen.note
    assert list(chosen.encode([(True, "ab")]).ids) == [made.eot, 97, 98]


def test_a_token_of_three_parts_makes_gigatoken_panic_and_nothing_else() -> None:
    pytest.importorskip("gigatoken")
    made = tokenizer("gpt2", [*single_bytes(), b"abc"])
    with pytest.raises(BaseException) as caught:
        fast_encoder(made, "gpt2", exact_encoder(made))
    assert type(caught.value).__name__ == "PanicException"
    chosen = choose_encoder(made, [part("a.txt", "abc")], fast=None, special=False)
    assert list(chosen.encode([(True, "ab")]).ids) == [made.eot, *made.encode("ab")]


def test_a_keyboard_interrupt_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), runs.failures_explained("x"):
        raise KeyboardInterrupt


def test_a_tokenizer_of_hugging_face_takes_long_runs_or_names_the_text() -> None:
    table = table_of(Vocabulary((*single_bytes(), b"<|endoftext|>"), (256,), ()))
    made = held_tokenizer(table, 256)
    with suppress(Unencodable):
        assert len(made.encode(" " * MILLION + "x")) == MILLION + 1
    assert list(exact_encoder(made)([(True, "ab")]).ids) == [256, *made.encode("ab")]
