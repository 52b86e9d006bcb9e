"""Read token ids that are written as text, as they arrive on a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator

from llmc.errors import BadData

CHUNK = 1 << 16


def parse_id(word: str) -> int:
    """Return the token id that ``word`` spells.

    Raises:
        BadData: it is not a whole number in ASCII digits.
    """
    if word.isascii() and word.isdecimal():
        return int(word)
    raise BadData(
        f"'{word[:40]}' is not a token id: give whole numbers, such as 'llmc sample' prints"
    )


def read_ids(file: int) -> Iterator[list[int]]:
    """Yield the ids on a file descriptor in groups, each group as soon as it has arrived.

    Raises:
        BadData: a word is not a token id.
    """
    rest = b""
    while chunk := os.read(file, CHUNK):
        # The last word may continue in the next chunk.
        whole, rest = split_at_last_space(rest + chunk)
        if words := whole.decode(errors="replace").split():
            yield [*map(parse_id, words)]
    if words := rest.decode(errors="replace").split():
        yield [*map(parse_id, words)]


def split_at_last_space(data: bytes) -> tuple[bytes, bytes]:
    """Return ``data`` up to its last whitespace, that included, and the word after it."""
    end = 1 + max(data.rfind(space) for space in (b" ", b"\n", b"\t", b"\r"))
    return data[:end], data[end:]
