"""Ids to text as they come, against decoding all of them at once."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.errors import BadData, Usage
from llmc.sample.streaming import Stops, TextPiece, TextStream
from llmc.tokens.bpe import train_bpe
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer

WORDS = "naïve Größe 日本語 🙂👩‍👧 the of and \n\n == def self, 東京 élan ́ \t"


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    if name == "byte":
        return load_tokenizer("byte")
    # Tokens that hold several characters, and tokens that hold parts of two.
    return train_bpe([WORDS, WORDS[::-1]] * 50, 330)


NAMES = st.sampled_from(["byte", "bpe"])
# Few different characters, so that stop strings come, and come half.
FEW = st.text(alphabet="ab\n é日🙂", max_size=40)
ANY = st.text(max_size=40) | FEW | st.text(alphabet=WORDS, max_size=40)
STOPS = st.lists(st.text(alphabet="ab\n é日🙂", min_size=1, max_size=5), max_size=4)


def ids_of(name: str, data: bytes) -> st.SearchStrategy[list[int]]:
    """Return every way to spell ``data`` in tokens, not only the one that encoding chooses."""
    ranks = tokenizer(name).ranks

    @st.composite
    def spelled(draw: st.DrawFn) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            ends = [end for end in range(at + 1, len(data) + 1) if data[at:end] in ranks]
            end = draw(st.sampled_from(ends))
            ids.append(ranks[data[at:end]])
            at = end
        return ids

    return spelled()


def streamed(
    name: str, ids: Sequence[int], stops: Sequence[str] = ()
) -> tuple[list[TextPiece], str | None]:
    stream = TextStream(tokenizer(name), stops)
    pieces = [piece for token in ids for piece in stream.feed(token)]
    pieces += stream.finish()
    return pieces, stream.stopped


def text_of(pieces: Sequence[TextPiece]) -> str:
    return "".join(piece.text for piece in pieces)


def cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Cut before the stop string that is complete first; the longest of several."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


@given(name=NAMES, text=ANY, data=st.data())
def test_any_spelling_of_any_text_comes_out(name: str, text: str, data: st.DataObject) -> None:
    ids = data.draw(ids_of(name, text.encode()))
    pieces, stopped = streamed(name, ids)
    assert text_of(pieces) == text
    assert stopped is None
    assert [piece.place for piece in pieces] == list(range(len(ids)))
    assert all(piece.whole for piece in pieces)


@given(name=NAMES, ids=st.lists(st.integers(0, 256), max_size=30))
def test_any_ids_come_out_as_if_decoded_at_once(name: str, ids: list[int]) -> None:
    data = tokenizer(name).detokenize(ids)
    pieces, _ = streamed(name, ids)
    assert text_of(pieces) == data.decode(errors="replace")
    assert [piece.place for piece in pieces] == list(range(len(ids)))
    stream = TextStream(tokenizer(name), errors="surrogateescape")
    kept = [piece for token in ids for piece in stream.feed(token)] + stream.finish()
    assert text_of(kept).encode(errors="surrogateescape") == data


@given(name=NAMES, text=FEW, stops=STOPS, data=st.data())
def test_the_text_ends_before_the_first_stop_string(
    name: str, text: str, stops: list[str], data: st.DataObject
) -> None:
    ids = data.draw(ids_of(name, text.encode()))
    pieces, stopped = streamed(name, ids, stops)
    kept, stop = cut(text, stops)
    assert (text_of(pieces), stopped) == (kept, stop)
    # The whole tokens are those that lie before the cut, and only the last piece is not whole.
    whole = [piece for piece in pieces if piece.whole]
    assert [piece.place for piece in whole] == list(range(len(whole)))
    assert all(piece.whole for piece in pieces[:-1])
    sizes = [len(tokenizer(name).detokenize(ids[:count])) for count in range(len(ids) + 1)]
    assert len(whole) == sum(size <= len(kept.encode()) for size in sizes[1:])
    assert tokenizer(name).detokenize(ids[: len(whole)]) == kept.encode()[: sizes[len(whole)]]


@given(name=NAMES, text=FEW, stops=STOPS, data=st.data())
def test_what_has_come_out_is_never_part_of_a_stop_string(
    name: str, text: str, stops: list[str], data: st.DataObject
) -> None:
    """Nothing is taken back, and nothing waits that could have come."""
    ids = data.draw(ids_of(name, text.encode()))
    stream = TextStream(tokenizer(name), stops)
    out = ""
    for count, token in enumerate(ids, start=1):
        out += text_of(stream.feed(token))
        if stream.stopped is not None:
            break
        so_far = tokenizer(name).detokenize(ids[:count])
        known = so_far.decode(errors="ignore")
        assert known.startswith(out)
        begun = [s[:n] for s in stops for n in range(1, len(s)) if known.endswith(s[:n])]
        held = max(map(len, begun), default=0)
        assert len(out) <= len(known) - held
        if known.encode() == so_far:  # no token ends inside a character
            ends = [
                len(data.decode(errors="replace"))
                for data in (tokenizer(name).detokenize(ids[:n]) for n in range(count + 1))
                if data == data.decode(errors="ignore").encode()
            ]
            assert len(out) == max(end for end in ends if end <= len(known) - held)


# So few letters that strings overlap themselves and each other.
TWO = st.text(alphabet="ab", min_size=1, max_size=12)


@given(text=st.text(alphabet="abc", max_size=60), strings=st.lists(TWO, max_size=5))
def test_stop_strings_are_found_as_by_looking_at_every_place(text: str, strings: list[str]) -> None:
    stops = Stops(strings)
    for end in range(1, len(text) + 1):
        before = text[:end]
        complete = sorted((s for s in strings if before.endswith(s)), key=len)
        assert stops.feed(text[end - 1]) == (complete[-1] if complete else None)
        if complete:
            continue  # the text has ended; what would come is found all the same
        begun = [n for s in strings for n in range(1, len(s)) if before.endswith(s[:n])]
        assert stops.held == max(begun, default=0)


def test_long_stop_strings_cost_no_more_than_short_ones() -> None:
    """What the server's event loop does for every character of every client."""
    stops = Stops("ab" * 127 + end for end in ("aa", "bb", "ac", "ca"))
    began = time.process_time()
    for char in "ab" * 20_000:
        assert stops.feed(char) is None
    assert time.process_time() - began < 2  # some 6 where all beginnings are tried at each


def feed(stream: TextStream, *tokens: bytes) -> list[str]:
    return [
        "".join(piece.text for byte in token for piece in stream.feed(byte)) for token in tokens
    ]


def test_a_character_waits_for_its_last_byte() -> None:
    stream = TextStream(tokenizer("byte"))
    assert feed(stream, b"a", b"\xf0\x9f\x99", b"\x82", b"\xc3") == ["a", "", "🙂", ""]
    assert stream.finish() == [TextPiece(5, "\ufffd")]


def test_what_looks_like_a_stop_string_waits() -> None:
    stream = TextStream(tokenizer("byte"), ["\n\nUser:"])
    assert feed(stream, b"Hi\n", b"\n", b"Use", b"d\n", b"\nUser", b":!") == [
        "Hi", "", "", "\n\nUsed", "", "",
    ]  # fmt: skip
    assert stream.stopped == "\n\nUser:"
    assert stream.feed(65) == []
    assert stream.finish() == []


def test_what_waits_comes_at_the_end() -> None:
    stream = TextStream(tokenizer("byte"), ["END"])
    assert feed(stream, b"the EN") == ["the "]
    assert text_of(stream.finish()) == "EN"
    assert stream.stopped is None


def test_half_a_token_is_text_but_no_token() -> None:
    merged = tokenizer("bpe")
    by_length = sorted(merged.tokens(), key=len)
    token = next(token for token in reversed(by_length) if token.isascii() and len(token) > 2)
    text = token.decode()
    stream = TextStream(merged, [text[-1]])
    assert stream.feed(merged.ranks[token]) == [TextPiece(0, text[:-1], whole=False)]


def test_a_stop_string_may_be_no_utf8_s_replacement() -> None:
    stream = TextStream(tokenizer("byte"), ["\ufffd"])
    assert feed(stream, b"a\xff", b"b") == ["a", ""]
    assert stream.stopped == "\ufffd"
    stream = TextStream(tokenizer("byte"), ["\ufffd"])
    assert feed(stream, b"a\xc3") == ["a"]
    assert stream.finish() == []
    assert stream.stopped == "\ufffd"


def test_end_of_text_is_text_where_it_is_fed() -> None:
    byte = tokenizer("byte")
    assert text_of(TextStream(byte).feed(byte.eot)) == "<|endoftext|>"
    assert TextStream(byte, ["<|end"]).feed(byte.eot) == []


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(Usage, match="must not be empty"):
        TextStream(tokenizer("byte"), ["a", ""])
    with pytest.raises(BadData, match="token 257 is not in the byte vocabulary"):
        TextStream(tokenizer("byte")).feed(257)


def test_real_tokens(gpt2: Tokenizer) -> None:
    text = "Das ist naïv: 日本語 🙂👩‍👧, isn't it?\n\nQ: no"
    stream = TextStream(gpt2, ["\n\nQ:"])
    pieces = [piece for token in gpt2.encode(text) for piece in stream.feed(token)]
    assert text_of(pieces) == text.partition("\n\nQ:")[0]
    assert len(pieces) > len(text_of(pieces).split())
    assert all(a.place < b.place for a, b in pairwise(pieces))


def test_ids_that_stand_for_nothing_are_no_text() -> None:
    """tiktoken's larger encodings have gaps."""
    byte = tokenizer("byte")
    gap = Tokenizer(
        "gap", byte.encoding, 256, 300, "", byte.pattern, {"<|endoftext|>": 256}, byte.ranks
    )
    stream = TextStream(gap, ["ab"])
    pieces = [piece for token in (120, 290, 97, 290, 99) for piece in stream.feed(token)]
    assert [piece.text for piece in pieces] == ["x", "", "a", "", "c"]
