"""llm.c's ``tokenizer.bin``: the bytes of every token, enough to turn ids into text.

Layout: a header of 256 int32 (magic, version 2, vocabulary, the end-of-text id), then for each
token its length in one byte and that many bytes. llm.c refuses tokens of no bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData
from llmc.kinds import HEAD_BYTES, not_data, read_strictly
from llmc.tokens.tokenizer import GPT2_VOCAB_SIZE

HEADER_BYTES = 1024
MAGIC, VERSION = 20240328, 2
HEADER = struct.Struct("<4I")
LONGEST = 255
LARGEST_FILE = 1 << 26  # bytes, and tokens
OLD_VERSION = 1  # of GPT-2's tokenizer alone; it does not name its end


@dataclass(frozen=True)
class TokenTable:
    """What a ``tokenizer.bin`` holds."""

    tokens: tuple[bytes, ...]  # the bytes of each id
    eot: int  # the id that ends a document
    count: int  # the tokens that the header promises
    version: int  # of the format


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
    return read_strictly(scan_tokenizer_bin, path, missing=f"there is no file {path}")


def scan_tokenizer_bin(path: Path, name: str = "it") -> tuple[TokenTable | None, list[str]]:
    """Read the tokens that are there: a :data:`llmc.kinds.Scan`."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        raw = file.read(min(size, LARGEST_FILE + 1))
    magic, version, count, eot = HEADER.unpack(raw[: HEADER.size].ljust(HEADER.size, b"\0"))
    if magic != MAGIC or version not in (OLD_VERSION, VERSION):
        other = f"{name} is not llm.c's tokenizer.bin of version {OLD_VERSION} or {VERSION}"
        return None, [not_data(raw[:HEAD_BYTES], name) or other]
    if len(raw) < HEADER_BYTES:
        return None, [f"{name} is cut short: it has {len(raw)} bytes of its {HEADER_BYTES}"]
    if not 0 < count <= LARGEST_FILE or len(raw) > LARGEST_FILE:
        return None, [
            f"{name} is damaged: {count:,} tokens in {size:,} bytes are more than any tokenizer has"
        ]
    eot = GPT2_VOCAB_SIZE - 1 if version == OLD_VERSION else eot
    problems = []
    if not 0 <= eot < count:
        problems.append(
            f"{name} is damaged: its end-of-text token {eot} lies outside its {count} tokens"
        )
    tokens: list[bytes] = []
    at = HEADER_BYTES
    while len(tokens) < count and at < len(raw) and at + 1 + raw[at] <= len(raw) and raw[at]:
        tokens.append(raw[at + 1 : at + 1 + raw[at]])
        at += 1 + raw[at]
    there = len(tokens)
    if there < count and at < len(raw) and not raw[at]:
        problems.append(f"{name} is damaged: token {there:,} is empty")
    elif there < count:
        problems.append(
            f"{name} is cut short: it promises {count:,} tokens, and it ends in token {there:,}"
        )
    elif at < len(raw):
        problems.append(f"{name} is damaged: {len(raw) - at:,} bytes follow the last token")
    return TokenTable(tuple(tokens), eot, count, version), problems
