"""Read files: a stretch of one, decompressed in chunks."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmc.errors import BadData
from llmc.fetch.compression import decompressed
from llmc.kinds import unreadable_explained
from llmc.text.utf8 import CHUNK

LIBRARY_ERRORS = ("ZstdError", "LZMAError")  # of libraries that are not imported before their use


@dataclass(frozen=True)
class Stretch:
    """A stretch of a file on disk, from the byte ``start`` to before the byte ``end``."""

    name: str  # in messages
    path: Path
    start: int
    end: int

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.end - self.start


class _Window(io.RawIOBase):
    """A stretch of an open file, as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end - self._start}
        self._at = max(0, base[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        self._file.seek(self._start + self._at)
        room = max(0, min(len(view), self._end - self._start - self._at))
        data = self._file.read(room)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def opened(stretch: Stretch) -> Iterator[BinaryIO]:
    """Open a stretch as a seekable stream of its bytes, still compressed.

    Raises:
        BadData: the file cannot be read, or is shorter than it was.
    """
    with unreadable_explained(stretch.path, "name another file"):
        file = stretch.path.open("rb")
        size = file.seek(0, io.SEEK_END)
    with file:
        if size < stretch.end:
            raise BadData(f"{stretch.name} is cut short: get it again")
        if (stretch.start, stretch.end) == (0, size):
            file.seek(0)
            yield file
        else:
            with io.BufferedReader(_Window(file, stretch.start, stretch.end), CHUNK) as window:
                yield cast(BinaryIO, window)


@contextmanager
def explained(name: str, codec: str) -> Iterator[None]:
    """Turn what reading a compressed stream raises into one sentence.

    Raises:
        BadData: the stream ends early, is damaged, or is not what its suffix says.
    """
    try:
        yield
    except EOFError as error:
        raise BadData(f"{name} is cut short: its {codec} data end early; get it again") from error
    except tarfile.TarError as error:
        raise BadData(f"{name} is cut short: get it again") from error
    except zipfile.BadZipFile as error:
        raise BadData(f"{name} is not a zip, or damaged ({error}): get it again") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise BadData(f"cannot read {name}: {error.strerror or error}") from error
        if isinstance(error, OSError | zlib.error) or type(error).__name__ in LIBRARY_ERRORS:
            raise BadData(
                f"{name} is not {codec} data, or damaged: get it again, or rename it"
            ) from error
        raise


def chunks_of(
    stream: BinaryIO, name: str, codec: str, *, any_ratio: bool = False
) -> Iterator[bytes]:
    """Yield the decompressed bytes of ``stream``, ``CHUNK`` at a time.

    Raises:
        BadData: the stream ends early or is damaged, or grows more than text does, without
            ``any_ratio``.
    """
    with explained(name, codec):
        plain = decompressed(stream, codec, name, any_ratio=any_ratio)
    while True:
        with explained(name, codec):
            chunk = plain.read(CHUNK)
        if not chunk:
            return
        yield chunk
