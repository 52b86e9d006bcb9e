"""Token files: a header of 256 int32 and unsigned tokens, as llm.c's data loader reads them.

The layout is written down in ``native/files/format.h``: magic 20240520, version 1 for uint16
tokens; magic 20240801, version 7 for uint32 tokens, which vocabularies over 65,536 need. Files
without a header, as nanoGPT (uint16) and llm.c's first release (int32) wrote them, say nothing
about themselves: whoever reads one has to name its type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import BadData
from llmc.paths import written_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER_BYTES = 1024
MAGIC16, VERSION16 = 20240520, 1
MAGIC32, VERSION32 = 20240801, 7
UINT16_VOCAB = 65536
MAX_TOKENS = 2**32 - 1
HASH_CHUNK = 1 << 20
HEADERLESS = {"uint16": "<u2", "int32": "<i4"}  # nanoGPT's, llm.c's first release's


@dataclass(frozen=True)
class TokenFile:
    """What was written: the number of tokens and the SHA-256 of all that follows the header."""

    path: Path
    tokens: int
    sha256: str


def token_dtype(vocab_size: int) -> str:
    """Return the type of the tokens in a file for so large a vocabulary."""
    return "<u2" if vocab_size <= UINT16_VOCAB else "<u4"


def write_tokens(
    path: Path, chunks: Iterable[NDArray[np.integer[Any]]], vocab_size: int
) -> TokenFile:
    """Write ``chunks``, arrays (n,) of token ids, one after the other as one token file.

    The chunks are streamed: one at a time is in memory.

    Raises:
        BadData: an id lies outside the vocabulary, there are over 2**32 - 1 tokens, or the disk
            is full.
    """
    import numpy as np

    dtype = token_dtype(vocab_size)
    count = 0
    digest = hashlib.sha256()
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for chunk in chunks:
            if not chunk.size:
                continue
            low, high = int(chunk.min()), int(chunk.max())
            if low < 0 or high >= vocab_size:
                raise BadData(
                    f"{path} was not written: token {low if low < 0 else high} lies outside the "
                    f"vocabulary of {vocab_size}; tokenize again with the tokenizer the data is for"
                )
            payload = np.ascontiguousarray(chunk.astype(dtype, copy=False)).data
            digest.update(payload)
            file.write(payload)
            count += chunk.size
        if count > MAX_TOKENS:
            raise BadData(
                f"{path} was not written: a token file holds at most {MAX_TOKENS:,} tokens, "
                f"not {count:,}; tokenize the text in parts"
            )
        header = np.zeros(HEADER_BYTES // 4, dtype="<u4")
        kind = (MAGIC16, VERSION16) if dtype == "<u2" else (MAGIC32, VERSION32)
        header[:3] = (*kind, count)
        file.seek(0)
        file.write(header.tobytes())
    return TokenFile(path, count, digest.hexdigest())


def read_tokens(path: Path) -> NDArray[np.unsignedinteger[Any]]:
    """Map the tokens of ``path``, (n,) uint16 or uint32, without reading them into memory.

    Raises:
        BadData: the file cannot be read, is no token file, or is shorter or longer than its
            header says.
    """
    import numpy as np

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES).ljust(HEADER_BYTES, b"\0"), "<u4")
    except OSError as error:
        raise BadData(
            f"cannot read the token file {path}: {error.strerror}; make it with 'llmc tokenize'"
        ) from error
    magic, version, count = (int(value) for value in header[:3])
    if size < HEADER_BYTES or magic not in (MAGIC16, MAGIC32):
        raise BadData(
            f"{path} is not a token file: it starts with {magic}, not {MAGIC16} or {MAGIC32}; "
            "make one from text with 'llmc tokenize', and one from tokens without a header with "
            "its --dtype uint16 or int32"
        )
    wanted = VERSION16 if magic == MAGIC16 else VERSION32
    if version != wanted:
        raise BadData(
            f"{path} is a token file of version {version}, and only version {wanted} is known; "
            "make it again with 'llmc tokenize'"
        )
    dtype = np.dtype("<u2" if magic == MAGIC16 else "<u4")
    expected = HEADER_BYTES + count * dtype.itemsize
    if size != expected:
        raise BadData(
            f"{path} has {size:,} bytes, but its header says {count:,} tokens, which make "
            f"{expected:,}; it was cut short or changed: run 'llmc tokenize' again"
        )
    if not count:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=HEADER_BYTES, shape=(count,))


def read_headerless(path: Path, dtype: str) -> NDArray[np.integer[Any]]:
    """Map the tokens (n,) of a file that is nothing but tokens, ``uint16`` or ``int32``.

    Raises:
        BadData: the file cannot be read, has a header, or is no whole number of tokens.
    """
    import numpy as np

    kind = np.dtype(HEADERLESS[dtype])
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = int.from_bytes(file.read(4), "little")
    except OSError as error:
        raise BadData(
            f"cannot read the token file {path}: {error.strerror}; name another"
        ) from error
    if magic in (MAGIC16, MAGIC32):
        raise BadData(f"{path} has llm.c's header, which says its type: leave out --dtype")
    if size % kind.itemsize:
        raise BadData(
            f"{path} has {size:,} bytes, which are no whole number of {dtype} tokens; "
            "it was cut short, or --dtype is another"
        )
    return np.memmap(path, kind, mode="r") if size else np.empty(0, kind)


def has_header(path: Path) -> bool:
    """Tell whether a file begins as a token file with a header does."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(4), "little") in (MAGIC16, MAGIC32)
    except OSError:
        return False


def payload_sha256(path: Path) -> str:
    """Return the SHA-256 of everything after the header, in hexadecimal.

    Raises:
        BadData: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            file.seek(HEADER_BYTES)
            while chunk := file.read(HASH_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise BadData(
            f"cannot read the token file {path}: {error.strerror}; make it with 'llmc tokenize'"
        ) from error
    return digest.hexdigest()
