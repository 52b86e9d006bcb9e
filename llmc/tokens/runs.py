"""Encode texts that a tokenizer's library refuses: runs of white space too long for its pattern.

tiktoken's regular expressions keep a place for every character of such a run, and give up at a
million. Here the run is taken out: it is the piece, or the two, that the pattern would make of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from llmc.errors import BadData, LlmcError
from llmc.kinds import is_failure, reason_of
from llmc.text.utf8 import well_formed
from llmc.tokens.vocabulary import PATTERNS

if TYPE_CHECKING:
    import tiktoken

    from llmc.tokens.held import HeldCoder
    from llmc.tokens.tokenizer import Tokenizer

# What \s means in tiktoken's regular expressions; Python's means more.
SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
LONG = 1 << 16
LONG_RUN = re.compile(f"{SPACE}{{{LONG},}}")
NEWLINES = re.compile(r"[\r\n]*")


class Unencodable(BadData):
    """A text that the tokenizer's library cannot encode."""

    advice = "leave it out, or choose another --tokenizer"


@contextmanager
def failures_explained(name: str) -> Iterator[None]:
    """Turn what a tokenizer's library raises into one sentence; ``name`` is the tokenizer's.

    Raises:
        Unencodable: the block raised an error, or Rust panicked in it.
    """
    try:
        yield
    except LlmcError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise Unencodable(f"the tokenizer {name} cannot encode it ({reason})") from error


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the text that the block encodes if it cannot be.

    Raises:
        BadData: the block raised Unencodable.
    """
    try:
        yield
    except Unencodable as error:
        raise BadData(f"{name}: {error}; {error.advice}") from error


def encode_carefully(
    tokenizer: Tokenizer, encoding: tiktoken.Encoding, text: str, special: set[str]
) -> list[int]:
    """Return tiktoken's ids of a text, also where its pattern gives up on long white space.

    Args:
        tokenizer: the tokenizer; only long runs for the patterns in ``PATTERNS`` are taken out.
        encoding: this thread's encoding of it.
        text: one document or a piece of one.
        special: the special tokens that are tokens in it.

    Raises:
        Unencodable: tiktoken cannot encode it.
    """
    ids: list[int] = []
    with failures_explained(tokenizer.name):
        # The pattern splits what is between special tokens.
        ordered = sorted(special, key=len, reverse=True)
        texts = re.split(f"({'|'.join(map(re.escape, ordered))})", text) if ordered else [text]
        for index, between in enumerate(texts):
            if index % 2:
                ids.append(tokenizer.special_tokens[between])
                continue
            for whole, piece in _pieces(between, tokenizer.pattern):
                if whole:
                    ids += encoding._encode_single_piece(piece)  # there is no public name for it
                else:  # encode_ordinary panics, which is seen on stderr
                    ids += encoding.encode(piece, disallowed_special=())
    return ids


def encoded(tokenizer: Tokenizer, text: str, special: set[str]) -> list[int]:
    """Return the ids of a text, in which the texts of ``special`` are tokens.

    Raises:
        Unencodable: the library cannot encode it.
        BadData: a tokenizer of characters does not have one of them.
    """
    if tokenizer.document is not None:
        coder = cast("HeldCoder", tokenizer.encoding)
        with failures_explained(tokenizer.name):
            return coder.many([text], special=bool(special))[0]
    encoding = cast("tiktoken.Encoding", tokenizer.encoding)
    try:
        return encoding.encode(text, allowed_special=special, disallowed_special=())
    except BaseException as error:
        if not is_failure(error):
            raise
    return encode_carefully(tokenizer, encoding, well_formed(text), special)


def _pieces(text: str, pattern: str) -> Iterator[tuple[bool, str]]:
    """Cut a text around its long runs of white space.

    Yields:
        Whether the text is a whole piece of the pattern, and the text.
    """
    at = 0
    for found in LONG_RUN.finditer(text) if pattern in PATTERNS.values() else ():
        begin, end = found.span()
        if pattern != PATTERNS["gpt2"]:
            # Newlines belong to the punctuation before them.
            before = unicodedata.category(text[begin - 1])[0] if begin else "N"
            if before == "M":  # a part of the word before it, or not
                continue
            if before not in "LN":
                begin = NEWLINES.match(text, begin, end).end()  # type: ignore[union-attr]
        line = begin  # where the run's last line begins, if its newlines are a piece of their own
        if pattern == PATTERNS["o200k"] or (pattern != PATTERNS["gpt2"] and end < len(text)):
            line = max(begin, *(text.rfind(each, begin, end) + 1 for each in "\r\n"))
        if begin == end:
            continue
        # What follows takes the last character of the run, unless that is a newline.
        stop = end if end == len(text) else max(begin, line, end - 1)
        if at < begin:
            yield False, text[at:begin]
        yield from ((True, text[a:b]) for a, b in ((begin, line), (line, stop)) if a < b)
        at = stop
    if at < len(text):
        yield False, text[at:]
