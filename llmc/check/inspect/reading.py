"""How files are read: in pieces, up to a budget, with progress.

Files are never mapped: a file that shrinks meanwhile is an error, not a signal that kills. Up to
``WHOLE_BYTES`` in all are read; of further files only a sample, unless ``full`` is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.kinds import HEAD_BYTES, not_data
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.tokens.tokenizer import Tokenizer

WHOLE_BYTES = 8 * 10**9  # under half a minute on a disk of today
PIECE = 1 << 23
LARGEST_TEXT = 1 << 26  # of a file that is parsed as one: JSON, TOML, a tokenizer
SHORT = 1 << 26  # a stretch that is read before anybody could see a bar


@dataclass
class ReadBudget:
    """The budget of one inspection.

    Attributes:
        full: read everything, however long it takes.
        left: bytes that may still be read whole.
        report: takes a progress bar for long files.
    """

    full: bool = False
    left: int = WHOLE_BYTES
    report: Report = SILENT

    def whole(self, size: int) -> bool:
        """Return whether a file of ``size`` bytes may be read whole, and count it."""
        if self.full:
            return True
        if size > self.left:
            return False
        self.left -= size
        return True

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
            at = start
            while at < stop and (data := file.read(min(piece, stop - at))):
                at += len(data)
                yield data
                if advance is not None:
                    advance(len(data))


@dataclass(frozen=True)
class Asked:
    """The options of an inspection.

    Attributes:
        workspace: the place to look for tokenizers.
        reading: how much may be read.
        tensors: show statistics of every tensor.
        dtype: the type of the tokens in a file without a header; None: files have headers.
        tokenizer: the tokenizer to use; None: the one recorded beside the file.
    """

    workspace: Workspace
    reading: ReadBudget = field(default_factory=ReadBudget)
    tensors: bool = False
    dtype: str | None = None
    tokenizer: Tokenizer | None = None


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        ValueError: it is no JSON, too large or nested too deeply; the message says which.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise ValueError(f"{size:,} bytes of JSON are more than llmc reads ({LARGEST_TEXT:,})")
    raw = path.read_bytes()
    if (sentence := not_data(raw[:HEAD_BYTES], "it")) is not None:
        raise ValueError(sentence)
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
