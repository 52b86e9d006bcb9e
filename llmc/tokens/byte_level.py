"""Byte-level BPE as Hugging Face and llama.cpp store it: spelled tokens and a list of merges.

llmc stores a tokenizer as a list of tokens in order of rank, as tiktoken does, and merges the
neighbours that form the token of lowest rank. Hugging Face stores pairs, which are tried in order.
The two agree: a token is always merged from the same two parts, those that its own bytes merge to
alone, because before it exists no merge reaches across its borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llmc.errors import BadData

# The printable character that stands for each byte in GPT-2's files: printable bytes of Latin-1
# stand for themselves; the others are U+0100 and up, in order.
_others = iter(range(256, 512))
CHARACTERS = [
    chr(byte) if chr(byte).isprintable() and byte != 0x20 else chr(next(_others))
    for byte in range(256)
]
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


LAST_SPECIAL = -1


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as a file holds it."""

    # The bytes of each id; a special token's name; empty for an id without token.
    tokens: tuple[bytes, ...]
    specials: tuple[int, ...]  # the ids of the special tokens
    merges: tuple[str, ...]  # pairs of spelled tokens, a space between them, in order of rank
    # The id that ends a document; None if there is none. Default: the last special token.
    end: int | None = LAST_SPECIAL
    # Ids of other tokens that are found whole in a text, before it is split.
    whole: tuple[int, ...] = ()

    @property
    def eot(self) -> int | None:
        """The id that ends a document; None if there is none."""
        return self.specials[-1] if self.end == LAST_SPECIAL else self.end

    def names(self) -> list[str]:
        """Return the tokens as GPT-2's files write them; ``""`` for an id without token."""
        named = {*self.specials, *self.whole}
        return [
            token.decode(errors="replace") if index in named else spelled(token)
            for index, token in enumerate(self.tokens)
        ]


def spelled(token: bytes) -> str:
    """Return a token as GPT-2's files write it."""
    return "".join(CHARACTERS[byte] for byte in token)


def unspelled(text: str) -> bytes:
    """Return the bytes of a spelled token.

    Raises:
        BadData: a character does not stand for a byte.
    """
    try:
        return bytes(BYTES[character] for character in text)
    except KeyError as error:
        raise BadData(f"the token {text!r} is not spelled as GPT-2's are") from error


def merges_of(tokens: Sequence[bytes]) -> tuple[str, ...]:
    """Return the merges of tokens in order of rank, special tokens left out.

    Raises:
        BadData: a token is not a merge of two others.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        if len(token) == 1:
            continue
        parts = _last_two(token, ranks)
        if len(parts) != 2:
            raise BadData(
                f"the tokenizer's token {ranks[token]} ({token!r}) is not a merge of two others, "
                "which this format requires"
            )
        merges.append(f"{spelled(parts[0])} {spelled(parts[1])}")
    return tuple(merges)


def _last_two(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Merge a token's bytes, lowest rank first, until two parts are left or nothing merges."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        found = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        best = min(found)
        if best == len(ranks):
            break
        at = found.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
