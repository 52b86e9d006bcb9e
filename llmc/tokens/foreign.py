"""Token files of other programs: llm.c's with a header, and files without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import BadData, Usage
from llmc.fetch.cache import file_sha256
from llmc.paths import expanded
from llmc.tokens.encode import Encoded
from llmc.tokens.files import has_header, has_mask, read_headerless, read_tokens, token_dtype
from llmc.tokens.pipeline import Position, Task
from llmc.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmc.tokens.files import Ids

SLICE = 1 << 20


def are_token_files(inputs: Sequence[str]) -> bool:
    """Return whether all inputs are token files: they have a header, or are called ``.bin``."""
    try:
        paths = _paths(inputs)
        return bool(paths) and all(
            path.is_file() and (has_header(path) or path.suffix == ".bin") for path in paths
        )
    except (OSError, BadData):  # opening them names the fault
        return False


def find_token_files(inputs: Sequence[str], dtype: str | None) -> list[Path]:
    """Return the token files that paths and glob patterns name, checked.

    Raises:
        Usage: there is no such file, or it has no header and ``dtype`` is None.
        BadData: a file is damaged.
    """
    paths = _paths(inputs)
    for path in paths:
        if not path.is_file():
            raise Usage(f"no token file '{path}': name files, or a pattern that finds some")
        if dtype is None and not has_header(path):
            raise Usage(
                f"{path} has no header that says what its tokens are: "
                "name their type, --dtype uint16 (nanoGPT's) or int32 (llm.c's first)"
            )
        _tokens_of(path, dtype)
        if dtype is None and has_mask(path):
            raise Usage(
                f"{path} has a mask, which belongs to its dataset of conversations: train on it "
                f"with --data {path.parent}"
            )
    return paths


def source_records(paths: Sequence[Path], dtype: str | None) -> tuple[dict[str, Any], ...]:
    """Return the manifest's ``source`` entries for token files."""
    return tuple(
        {
            "path": str(path.resolve()),
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "tokens": dtype or "llm.c",
        }
        for path in paths
    )


def _paths(inputs: Sequence[str]) -> list[Path]:
    return [path for text in inputs for path in expanded(text) or [Path(text)]]


def _tokens_of(path: Path, dtype: str | None) -> Ids:
    return read_tokens(path) if dtype is None else read_headerless(path, dtype)


def token_tasks(
    paths: Sequence[Path], dtype: str | None, tokenizer: Tokenizer, start: Position
) -> Iterator[Task]:
    """Yield the tasks of reading token files and checking that each id is in the vocabulary."""
    lengths = tokenizer.byte_lengths()
    for index, path in enumerate(paths):
        if index < start.part:
            continue
        count = len(_tokens_of(path, dtype))
        first = start.batch if index == start.part else 0
        for at in range(first * SLICE, count, SLICE):
            run = partial(_checked, path, dtype, at, lengths, tokenizer)
            size = path.stat().st_size * min(SLICE, count - at) // count
            yield Task(Position(index, at // SLICE), run, size)


def _checked(path: Path, dtype: str | None, at: int, lengths: Ids, tokenizer: Tokenizer) -> Encoded:
    import numpy as np

    # A new map for each slice: pages that were read count as this process's memory.
    piece = _tokens_of(path, dtype)[at : at + SLICE]
    outside = (piece < 0) | (piece >= tokenizer.vocab_size)
    if outside.any():
        place = int(np.argmax(outside))
        raise BadData(
            f"{path} holds token {int(piece[place])} at position {at + place:,}, but "
            f"{tokenizer.name} has {tokenizer.vocab_size:,} tokens: "
            "name its tokenizer with --tokenizer, or its type with --dtype"
        )
    return Encoded(piece.astype(token_dtype(tokenizer.vocab_size)), int(lengths[piece].sum()))
