"""Token files: a header of 256 int32 and unsigned tokens, as llm.c's data loader reads them.

The layout is written down in ``native/files/format.h``: magic 20240520, version 1 for uint16
tokens; magic 20240801, version 7 for uint32 tokens, which vocabularies over 65,536 need. Files
without a header, as nanoGPT (uint16) and llm.c's first release (int32) wrote them, say nothing
about themselves: the caller has to name their type.

A token file may have a companion, its mask: a byte for each token, which says whether the loss
counts there and whether a conversation or a turn begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmc.errors import BadData
from llmc.kinds import not_data, read_strictly, unreadable_explained
from llmc.paths import written_whole
from llmc.tokens.masks import (
    AGAIN,
    HEADER,
    HEADER_BYTES,
    MaskWriter,
    checked_mask,
    mask_path,
    mask_problems,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.integer[Any]]  # (n,)
    from llmc.tokens.masks import Mask

MAGIC16, VERSION16 = 20240520, 1
MAGIC32, VERSION32 = 20240801, 7
KINDS = {MAGIC16: ("uint16", VERSION16), MAGIC32: ("uint32", VERSION32)}
ROWS_MAGIC, ROWS_VERSION = 20250917, 1
UINT16_VOCAB = 65536
MAX_TOKENS = 2**32 - 1
LONGEST_NAME = 255  # bytes, on every system
MIN_TOKENS = 2  # an input and its target
WIDTHS = {"uint16": 2, "int32": 4, "uint32": 4}  # bytes of a token
HEADERLESS = {"uint16": "<u2", "int32": "<i4"}  # nanoGPT's, llm.c's first release's


@dataclass(frozen=True)
class TokenFile:
    """A written file: the number of tokens and the SHA-256 of all that follows the header."""

    path: Path
    tokens: int
    sha256: str
    mask_sha256: str | None = None  # of all that follows the header of its mask; None: no mask


def token_dtype(vocab_size: int) -> str:
    """Return the type of the tokens in a file for so large a vocabulary."""
    return "<u2" if vocab_size <= UINT16_VOCAB else "<u4"


def write_tokens(
    path: Path,
    chunks: Iterable[Ids] | Iterable[tuple[Ids, Mask]],
    vocab_size: int,
    *,
    masked: bool = False,
) -> TokenFile:
    """Write ``chunks`` of token ids, one after the other and one in memory, as one token file.

    Args:
        path: the file.
        chunks: ids (n,), or with ``masked`` pairs of ids (n,) and their mask (n,).
        vocab_size: ids must be below it.
        masked: write the mask's file too; both are written whole or not at all.

    Raises:
        BadData: an id lies outside the vocabulary, there are over 2**32 - 1 tokens, or the disk
            is full.
        ValueError: a mask has another length than its ids, or unknown bits.
    """
    import numpy as np

    dtype = token_dtype(vocab_size)
    count = 0
    digest = hashlib.sha256()
    with ExitStack() as stack:
        partial = stack.enter_context(written_whole(path))
        mask = stack.enter_context(MaskWriter(mask_path(path))) if masked else None
        file = stack.enter_context(partial.open("wb"))
        file.write(bytes(HEADER_BYTES))
        for chunk in cast("Iterable[Any]", chunks):
            if mask is not None:
                mask.add(*chunk)
            ids: Ids = chunk if mask is None else chunk[0]
            if not ids.size:
                continue
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= vocab_size:
                raise BadData(
                    f"{path} was not written: token {low if low < 0 else high} lies outside the "
                    f"vocabulary of {vocab_size}; tokenize again with the tokenizer the data is for"
                )
            payload = np.ascontiguousarray(ids.astype(dtype, copy=False)).data
            digest.update(payload)
            file.write(payload)
            count += ids.size
        if count > MAX_TOKENS:
            raise BadData(
                f"{path} was not written: a token file holds at most {MAX_TOKENS:,} tokens, "
                f"not {count:,}; tokenize the text in parts"
            )
        magic, version = (MAGIC16, VERSION16) if dtype == "<u2" else (MAGIC32, VERSION32)
        file.seek(0)
        file.write(HEADER.pack(magic, version, count, mask is not None))
    return TokenFile(path, count, digest.hexdigest(), mask.sha256 if mask else None)


def write_rows(path: Path, rows: Iterable[tuple[int, int, int]]) -> None:
    """Write which rows of a token file to evaluate: the tokens to read, and those to predict.

    The layout is defined in ``native/files/format.h``. Each row is (start, length, from): tokens
    from to length - 1 of it are predicted.

    Raises:
        BadData: the disk is full.
    """
    import numpy as np

    table = np.array(list(rows), dtype="<u4").reshape(-1, 3)
    header = HEADER.pack(ROWS_MAGIC, ROWS_VERSION, len(table), 0).ljust(HEADER_BYTES, b"\0")
    with written_whole(path) as partial:
        partial.write_bytes(header + table.tobytes())


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of a file lie."""

    dtype: str  # uint16, uint32 or, without a header, int32
    start: int  # the first byte of the tokens
    count: int  # the tokens that the file promises
    there: int  # the tokens that it holds
    version: int = 0  # of the header; 0 without one
    masked: bool = False  # the file has a companion, its mask

    @property
    def width(self) -> int:
        """The bytes of a token."""
        return WIDTHS[self.dtype]


def scan_tokens(path: Path, name: str = "it") -> tuple[TokenLayout | None, list[str]]:
    """Read the header of a token file, and that of its mask: a :data:`llmc.kinds.Scan`."""
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
        size = file.seek(0, 2)
    magic, version, count, masked = HEADER.unpack(raw[: HEADER.size].ljust(HEADER.size, b"\0"))
    if magic not in KINDS:
        other = (
            f"{name} is not a token file: it starts with {magic}, not {MAGIC16} or {MAGIC32}; "
            "make one with 'llmc tokenize PATH', of tokens without a header with --dtype uint16 or "
            "int32"
        )
        return None, [not_data(raw, name) or other]
    if len(raw) < HEADER_BYTES:
        return None, [
            f"{name} is cut short: it has {len(raw)} bytes of its header's {HEADER_BYTES}; {AGAIN}"
        ]
    problems = []
    dtype, wanted = KINDS[magic]
    if version != wanted:
        problems.append(
            f"{name} is a token file of version {version}, and only version {wanted} is known; "
            f"{AGAIN}"
        )
    width = WIDTHS[dtype]
    expected = HEADER_BYTES + count * width
    promised = f"its header promises {count:,} tokens in {expected:,} bytes, and"
    if size < expected:
        problems.append(
            f"{name} is cut short: {promised} {expected - size:,} bytes are missing; {AGAIN}"
        )
    elif size > expected:
        problems.append(f"{name} is too long: {promised} {size - expected:,} more follow; {AGAIN}")
    if masked > 1:
        problems.append(f"{name} is damaged: int 3 of its header is {masked}, not 0 or 1; {AGAIN}")
    elif masked:
        problems += mask_problems(path, name, count)
    there = min(count, (size - HEADER_BYTES) // width)
    return TokenLayout(dtype, HEADER_BYTES, count, there, version, masked == 1), problems


def scan_headerless(path: Path, dtype: str, name: str = "it") -> tuple[TokenLayout, list[str]]:
    """Return the layout of a file that is nothing but tokens, and its problems.

    Raises:
        OSError: the file cannot be read.
    """
    size, width = path.stat().st_size, WIDTHS[dtype]
    problems = []
    if size % width:
        problems.append(
            f"{name} has {size:,} bytes, which is not a whole number of {dtype} tokens; "
            "it was cut short, or --dtype is another"
        )
    return TokenLayout(dtype, 0, size // width, size // width), problems


def read_tokens(path: Path) -> NDArray[np.unsignedinteger[Any]]:
    """Map the tokens of ``path``, (n,) uint16 or uint32, without reading them into memory.

    Raises:
        BadData: the file cannot be read, is not a token file, or is shorter or longer than its
            header says.
    """
    import numpy as np

    layout = read_strictly(scan_tokens, path, advice=AGAIN)
    dtype = np.dtype(layout.dtype).newbyteorder("<")
    if not layout.count:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=layout.start, shape=(layout.count,))


def has_mask(path: Path) -> bool:
    """Return whether a token file has a mask; errors as in :func:`read_tokens`."""
    return read_strictly(scan_tokens, path, advice=AGAIN).masked


def read_mask(path: Path) -> Mask:
    """Map the mask (n,) uint8 of the token file ``path``, and compare it with its checksum.

    Raises:
        BadData: as :func:`read_tokens`; the file has no mask, or one that is damaged.
    """
    layout = read_strictly(scan_tokens, path, advice=AGAIN)
    if not layout.masked:
        raise BadData(f"{path} has no mask: its loss counts everywhere; {AGAIN}")
    return checked_mask(path, layout.count)


class FreshTokens:
    """The tokens of a file, mapped anew for each part that is taken.

    Pages that were read count as this process's memory until their map is gone.
    """

    def __init__(self, path: Path) -> None:
        """Take a file; errors as in :func:`read_tokens`."""
        self._path = path
        self._count = len(read_tokens(path))

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._count

    def __getitem__(self, part: Any) -> Any:
        """Return the tokens of a slice or at positions, (n,)."""
        return read_tokens(self._path)[part]


def read_headerless(path: Path, dtype: str) -> Ids:
    """Map the tokens (n,) of a file that is nothing but tokens, ``uint16`` or ``int32``.

    Raises:
        BadData: the file cannot be read, has a header, or is not a whole number of tokens.
    """
    import numpy as np

    def scan(path: Path, name: str) -> tuple[TokenLayout, list[str]]:
        layout, problems = scan_headerless(path, dtype, name)
        with path.open("rb") as file:
            headed = int.from_bytes(file.read(4), "little") in KINDS
        if headed:
            problems = [f"{name} has llm.c's header, which says its type: leave out --dtype"]
        return layout, problems

    kind = np.dtype(HEADERLESS[dtype])
    layout = read_strictly(scan, path, advice="name another file")
    return np.memmap(path, kind, mode="r") if layout.count else np.empty(0, kind)


def is_file_name(name: str) -> bool:
    """Return whether ``name`` is a file's name without a folder."""
    is_short = len(name.encode(errors="replace")) <= LONGEST_NAME
    return is_short and name not in ("", "..") and "\0" not in name and Path(name).name == name


def has_header(path: Path) -> bool:
    """Tell whether a file begins as a token file with a header does."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(4), "little") in KINDS
    except OSError:
        return False


def payload_sha256(path: Path) -> str:
    """Return the SHA-256 of everything after the header, in hexadecimal.

    Raises:
        BadData: the file cannot be read.
    """
    with unreadable_explained(path, AGAIN), path.open("rb") as file:
        file.seek(HEADER_BYTES)
        return hashlib.file_digest(file, "sha256").hexdigest()
