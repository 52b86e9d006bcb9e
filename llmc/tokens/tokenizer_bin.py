"""llm.c's ``tokenizer.bin``: the bytes of every token, enough to turn ids into text.

Layout: a header of 256 int32 (magic, version 2, vocabulary, the end-of-text id), then for each
token its length in one byte and that many bytes. llm.c refuses tokens of no bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData, MissingOutput

HEADER_BYTES = 1024
MAGIC, VERSION = 20240328, 2
HEADER = struct.Struct("<4i")
LONGEST = 255
OLD_VERSION, OLD_VOCAB_SIZE = 1, 50257  # version 1 is GPT-2's alone and does not name its end


@dataclass(frozen=True)
class TokenTable:
    """What a ``tokenizer.bin`` holds: the bytes of each id, and which id ends a document."""

    tokens: tuple[bytes, ...]
    eot: int


def write_tokenizer_bin(path: Path, tokens: Sequence[bytes], eot: int) -> None:
    """Write the bytes of every token in the order of ids, ``<|endoftext|>`` under its name.

    Raises:
        BadData: a token is longer than 255 bytes, or has none.
        OSError: the disk is full.
    """
    for index, token in enumerate(tokens):
        if not 1 <= len(token) <= LONGEST:
            raise BadData(
                f"token {index} has {len(token)} bytes, llm.c's tokenizer.bin holds 1 to "
                f"{LONGEST}: train a tokenizer with shorter tokens, or export to another format"
            )
    body = b"".join(bytes([len(token)]) + token for token in tokens)
    header = HEADER.pack(MAGIC, VERSION, len(tokens), eot).ljust(HEADER_BYTES, b"\0")
    path.write_bytes(header + body)


def read_tokenizer_bin(path: Path) -> TokenTable:
    """Read what llm.c or llmc wrote.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is another file, or damaged.
    """
    if not path.is_file():
        raise MissingOutput(f"there is no file {path}")
    raw = path.read_bytes()
    magic, version, count, eot = HEADER.unpack(raw[: HEADER.size].ljust(HEADER.size, b"\0"))
    if magic != MAGIC or version not in (OLD_VERSION, VERSION) or count < 1:
        raise BadData(f"{path} is not llm.c's tokenizer.bin")
    tokens: list[bytes] = []
    at = HEADER_BYTES
    while len(tokens) < count and at < len(raw):
        end = at + 1 + raw[at]
        tokens.append(raw[at + 1 : end])
        at = end
    if len(tokens) != count or at != len(raw):
        raise BadData(
            f"{path} is damaged: it promises {count} tokens and does not end with the last"
        )
    if version == OLD_VERSION:
        eot = OLD_VOCAB_SIZE - 1
    if not 0 <= eot < count:
        raise BadData(f"{path} is damaged: its end-of-text token {eot} is not one of its {count}")
    return TokenTable(tuple(tokens), eot)
