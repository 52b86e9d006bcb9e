"""Compressed files: what a name's suffix means, and the stream of what they hold."""

from __future__ import annotations

import io
import sys
from functools import partial
from importlib import import_module
from typing import IO, Any, BinaryIO, cast

from llmc.errors import BadData
from llmc.units import megabytes

# The codec of a compressed file and of a compressed tar, by the last suffix of the name.
CODECS = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
TARS = {".tgz": "gz", ".tzst": "zst", ".tbz2": "bz2", ".txz": "xz"}
# Python 3.14 has zstd of its own; for an older one it comes from PyPI.
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
MODULES = {"gz": "gzip", "zst": ZSTD, "bz2": "bz2", "xz": "lzma"}
# Bytes that a byte may become. Text compresses by 3 to 20; a file of zeros by 1,000 and more.
MOST_RATIO = 200
ALLOWANCE = 64 << 20  # bytes that are allowed whatever the ratio
XZ_MEMORY = 256 << 20  # bytes; xz -9 takes 65 MiB
CHUNK = 1 << 16


class Bomb(BadData):
    """Compressed data that grow more than text does."""


def check_growth(name: str, packed: int, plain: int, *, any_ratio: bool = False) -> None:
    """Check how large compressed data become that take ``packed`` bytes.

    Raises:
        Bomb: they grow more than ``MOST_RATIO`` times, and beyond ``ALLOWANCE``.
    """
    if not any_ratio and plain > max(ALLOWANCE, packed * MOST_RATIO):
        raise Bomb(
            f"{name} grows to more than {MOST_RATIO} times its size: {megabytes(packed)} became "
            f"more than {megabytes(plain)}; if it is meant to, say --any-ratio"
        )


class Metered(io.RawIOBase):
    """A stream whose bytes are counted as they are read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.count = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``; return the number of bytes."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class _Bounded(Metered):
    """A decompressed stream that grows no more than text does."""

    def __init__(self, stream: IO[bytes], packed: Metered, name: str) -> None:
        super().__init__(stream)
        self._packed, self._name = packed, name

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        check_growth(self._name, self._packed.count, self.count)
        return count


class _Xz(io.RawIOBase):
    """The contents of xz data, in bounded memory, which LZMAFile cannot be asked for."""

    def __init__(self, stream: IO[bytes]) -> None:
        import lzma

        self._make = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        self._decoder = self._make()
        self._stream, self._packed = stream, b""
        self._inside = True  # a stream, or about to begin the first

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if self._decoder.eof:
                self._packed, self._decoder = self._decoder.unused_data, self._make()
                self._inside = False
            if not self._packed and self._decoder.needs_input:
                self._packed = self._stream.read(CHUNK)
                if not self._packed and self._inside:
                    raise EOFError("the data end early")
                if not self._packed:
                    return 0
            if not self._inside:
                self._packed = self._packed.lstrip(b"\0")  # streams may be padded
                self._inside = bool(self._packed)
                continue
            data = self._decoder.decompress(self._packed, len(buffer))
            self._packed = b""
        buffer[: len(data)] = data
        return len(data)


def decompressed(
    stream: IO[bytes], codec: str, name: str = "the data", *, any_ratio: bool = False
) -> BinaryIO:
    """Return the decompressed stream; ``codec`` is a value of :data:`CODECS`, or empty.

    Reading it raises :class:`Bomb` where it grows more than :func:`check_growth` allows, unless
    ``any_ratio``; ``name`` is how the message calls it.
    """
    if not codec:
        return cast(BinaryIO, stream)
    packed = Metered(stream)
    source = io.BufferedReader(packed, CHUNK)
    opened: Any = _Xz(source) if codec == "xz" else import_module(MODULES[codec]).open(source)
    plain = opened if any_ratio else _Bounded(opened, packed, name)
    return cast(BinaryIO, io.BufferedReader(plain, CHUNK))
