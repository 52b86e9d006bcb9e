"""How much of a file is read, how, and who is told how far it has come.

Files are read in pieces, never mapped: a file that shrinks meanwhile is an error to report, not a
signal that kills. Up to ``WHOLE_BYTES`` in all are read; of what comes after, only a sample, unless
everything was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmc.paths import Workspace
from llmc.tokens.tokenizer import Tokenizer

WHOLE_BYTES = 8 * 10**9  # under half a minute on a disk of today
PIECE = 1 << 23
LARGEST_TEXT = 1 << 26  # of a file that is parsed as one: JSON, TOML, a tokenizer

Tell = Callable[[Path, int, int], None]


@dataclass
class Reading:
    """The budget of one inspection.

    Attributes:
        full: read everything, whatever it takes.
        tell: told of the path, the bytes read now and the bytes to read in all.
        left: bytes that may still be read whole.
    """

    full: bool = False
    tell: Tell | None = None
    left: int = WHOLE_BYTES

    def whole(self, size: int) -> bool:
        """Say whether a file of ``size`` bytes may be read whole, and count it."""
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
        with path.open("rb") as file:
            file.seek(start)
            at = start
            while at < stop and (data := file.read(min(piece, stop - at))):
                at += len(data)
                yield data
                if self.tell is not None:
                    self.tell(path, len(data), stop - start)


@dataclass(frozen=True)
class Asked:
    """What the person asked for.

    Attributes:
        workspace: where tokenizers are looked for.
        reading: how much may be read.
        tensors: statistics of every tensor are wanted.
        dtype: the width of tokens in a file without a header; None: files have headers.
        tokenizer: the one named; None: the one recorded beside the file.
    """

    workspace: Workspace
    reading: Reading = field(default_factory=Reading)
    tensors: bool = False
    dtype: str | None = None
    tokenizer: Tokenizer | None = None


def file_size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
        OSError: there is none.
    """
    return path.stat().st_size


def head_of(path: Path, count: int) -> bytes:
    """Return the first ``count`` bytes, or what there is.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(count)
