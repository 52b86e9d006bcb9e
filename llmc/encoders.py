"""Documents to token ids, a batch at a time: by tiktoken, or by gigatoken where it is installed.

Encoding a batch is one call that leaves Python's lock to the other threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmc.datasets import Part
from llmc.formats.tokens import token_dtype
from llmc.tokenizers import ENDOFTEXT, PATTERN, Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.uint16] | NDArray[np.uint32]

BATCH_CHARACTERS = 1 << 18

# Where a document may be cut so that its pieces have the tokens of the whole. No piece of GPT-2's
# pattern goes on from what is no space to what is one, and none looks back; the others of tiktoken
# may take newlines to the punctuation before them, but no blank.
CUT_ANYWHERE = re.compile(r"(?<=\S)[ \n]")
CUT_AT_BLANKS = re.compile(r"(?<=\S) ")
CUT_AT_BLANKS_IN = ("cl100k_base", "o200k_base", "o200k_harmony")


@dataclass(frozen=True)
class Batch:
    """Text in order: documents, or pieces of a long one.

    Attributes:
        texts: the pieces.
        starts: which of them begin a document.
    """

    texts: list[str]
    starts: list[bool]


@dataclass(frozen=True)
class Encoded:
    """What a batch became: ids (n,), and its bytes in UTF-8."""

    ids: Ids
    text_bytes: int


Encode = Callable[[Batch], Encoded]


def batches(documents: Iterable[str], cuts: re.Pattern[str] | None) -> Iterator[Batch]:
    """Group documents into batches of about ``BATCH_CHARACTERS``; cut longer ones at ``cuts``."""
    texts: list[str] = []
    starts: list[bool] = []
    size = 0
    for document in documents:
        for start, piece in pieces(document, cuts):
            texts.append(piece)
            starts.append(start)
            size += len(piece)
            if size >= BATCH_CHARACTERS:
                yield Batch(texts, starts)
                texts, starts, size = [], [], 0
    if texts:
        yield Batch(texts, starts)


def pieces(document: str, cuts: re.Pattern[str] | None) -> Iterator[tuple[bool, str]]:
    """Yield a document in pieces of about ``BATCH_CHARACTERS``, and whether they begin it."""
    at = 0
    while cuts is not None and len(document) - at > 2 * BATCH_CHARACTERS:
        found = cuts.search(document, at + BATCH_CHARACTERS)
        if found is None:
            break
        yield at == 0, document[at : found.start()]
        at = found.start()
    yield at == 0, document[at:] if at else document


def cuts_of(tokenizer: Tokenizer, *, special: bool = False) -> re.Pattern[str] | None:
    """Return where the documents of a tokenizer may be cut; None: nowhere that is known.

    Args:
        tokenizer: whose pattern decides.
        special: special tokens in documents are tokens, and must not be cut.
    """
    if special and any(re.search(r"\s", text) for text in tokenizer.special_tokens):
        return None
    if tokenizer.pattern == PATTERN:
        return CUT_ANYWHERE
    return CUT_AT_BLANKS if tokenizer.name in CUT_AT_BLANKS_IN else None


def tiktoken_encoder(tokenizer: Tokenizer, *, special: bool = False) -> Encode:
    """Return what encodes batches with tiktoken, ``<|endoftext|>`` before each document.

    Args:
        tokenizer: the vocabulary.
        special: text of a special token in a document is that token; else it is text.
    """
    import numpy as np

    encoding, dtype = tokenizer.encoding, token_dtype(tokenizer.vocab_size)
    allowed = set(tokenizer.special_tokens) if special else {ENDOFTEXT}

    def encode(batch: Batch) -> Encoded:
        batch, size = _well_formed(batch)
        joined = _joined(batch)
        if special or joined.count(ENDOFTEXT) == sum(batch.starts):
            ids = encoding.encode_to_numpy(joined, allowed_special=allowed, disallowed_special=())
        else:
            ids = np.concatenate([*map(ordinary, batch.starts, batch.texts)])
        return Encoded(ids.astype(dtype), size)

    def ordinary(start: bool, text: str) -> NDArray[np.uint32]:
        ids = encoding.encode_to_numpy(text, disallowed_special=())
        return np.concatenate([np.full(int(start), tokenizer.eot, np.uint32), ids])

    return encode


def _joined(batch: Batch) -> str:
    """Return the batch as one text in which ``<|endoftext|>`` begins each document.

    No end of a document makes another one of it together with what follows: it has no border.
    """
    parts = [""] * (2 * len(batch.texts))
    parts[::2] = [ENDOFTEXT if start else "" for start in batch.starts]
    parts[1::2] = batch.texts
    return "".join(parts)


def _well_formed(batch: Batch) -> tuple[Batch, int]:
    """Return the batch and its bytes in UTF-8; halves of surrogate pairs become U+FFFD."""
    try:
        return batch, sum(map(_utf8_length, batch.texts))
    except UnicodeEncodeError:
        texts = [
            text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            for text in batch.texts
        ]
        return Batch(texts, batch.starts), sum(map(_utf8_length, texts))


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@dataclass(frozen=True)
class Choice:
    """An encoder, and what is to be said about it; empty: nothing."""

    encode: Encode
    note: str = ""


def choose_encoder(
    tokenizer: Tokenizer, parts: Sequence[Part], *, fast: bool | None, special: bool
) -> Choice:
    """Return what encodes batches of a text."""
    return Choice(tiktoken_encoder(tokenizer, special=special))
