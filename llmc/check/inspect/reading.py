"""What a file is, and how it is read: in pieces, up to a budget, with progress.

Files are never mapped: a file that shrinks meanwhile is an error, not a signal that kills. Up to
``WHOLE_BYTES`` in all are read; of further files only a sample, unless ``full`` is set.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.check import debug_state
from llmc.kinds import HEAD_BYTES, is_text, kind_of_bytes, not_data
from llmc.parsing import from_json_file, read_limited
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.tokens import files as token_files
from llmc.tokens import tokenizer_bin
from llmc.tokens.masks import MASK_MAGIC
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights import checkpoint
from llmc.weights import state as training_state

WHOLE_BYTES = 8 * 10**9  # under half a minute on a disk of today
PIECE = 1 << 23
NOT_READ = "the file is large; --full reads all of it"
SHORT = 1 << 26  # a stretch that is read before anybody could see a bar

# Formats that begin with one of llm.c's numbers, little-endian.
MAGICS = {
    token_files.MAGIC16: "tokens",
    token_files.MAGIC32: "tokens",
    MASK_MAGIC: "mask",
    checkpoint.MAGIC: "checkpoint",
    debug_state.MAGIC: "debug_state",
    tokenizer_bin.MAGIC: "tokenizer.bin",
    training_state.MAGIC: "training_state",
}
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


@dataclass
class Options:
    """The options of an inspection, and how much of its files may still be read."""

    workspace: Workspace  # the place to look for tokenizers
    tensors: bool = False  # show statistics of every tensor
    # The type of the tokens in a file without a header; None: files have headers.
    dtype: str | None = None
    # The tokenizer to use; None: the one recorded beside the file.
    tokenizer: Tokenizer | None = None
    full: bool = False  # read everything, however long it takes
    report: Report = SILENT  # takes a progress bar for long files
    left: int = WHOLE_BYTES  # bytes that may still be read whole

    def may_read(self, size: int) -> bool:
        """Return whether a file of ``size`` bytes may be read whole, and count it."""
        if not self.full and size <= self.left:
            self.left -= size
            return True
        return self.full

    def pieces(self, path: Path, start: int, stop: int, piece: int = PIECE) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to ``stop``, ``piece`` at a time; fewer if it ends before.

        Raises:
            OSError: the file cannot be read.
        """
        if start >= stop:
            return  # also where damage promises an offset that no file has
        size = stop - start
        bar = self.report.bar(f"reading {path.name}", size) if size > SHORT else nullcontext()
        with path.open("rb") as file, bar as advance:
            file.seek(start)
            while size > 0 and (data := file.read(min(piece, size))):
                size -= len(data)
                yield data
                if advance is not None:
                    advance(len(data))


def read_bytes(path: Path, start: int, count: int) -> bytes:
    """Return the ``count`` bytes from ``start`` on, fewer if the file ends before.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        ValueError: it is not JSON, too large or nested too deeply; the message says which.
        OSError: it cannot be read.
    """
    raw = read_limited(path)
    if (sentence := not_data(raw[:HEAD_BYTES], "it")) is not None:
        raise ValueError(sentence)
    return from_json_file(raw)


def kind_of(path: Path) -> str:
    """Return the kind of a file, by its first bytes; its name decides nothing.

    One of :func:`~llmc.kinds.kind_of_bytes` or of llmc's own formats; ``special`` for a device, a
    pipe or a socket.

    Raises:
        OSError: the file cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        return "special"
    return kind_of_head(read_bytes(path, 0, HEAD_BYTES))


def kind_of_head(head: bytes) -> str:
    """Return the kind of a file that begins with these bytes."""
    magic = MAGICS.get(int.from_bytes(head[:4], "little")) if len(head) >= 4 else None
    if magic is not None:
        return magic
    if re.match(rb".{8}\{\s*[\"}]", head, re.DOTALL) and not is_text(head[:8]):
        return "safetensors"
    kind = kind_of_bytes(head)
    return "tokenizer.tiktoken" if kind == "text" and TIKTOKEN_LINE.match(head) else kind
