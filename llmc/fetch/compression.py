"""Compressed files: what a name's suffix means, and the stream of what they hold."""

from __future__ import annotations

import sys
from typing import IO, Any, BinaryIO, cast

# The codec of a compressed file and of a compressed tar, by the last suffix of the name.
CODECS = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
TARS = {".tgz": "gz", ".tzst": "zst", ".tbz2": "bz2", ".txz": "xz"}


def decompressed(stream: IO[bytes], codec: str) -> BinaryIO:
    """Return the decompressed stream; ``codec`` is a value of :data:`CODECS`, or empty."""
    if codec == "gz":
        import gzip

        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if codec == "zst":
        return cast(BinaryIO, zstd().ZstdFile(stream))
    if codec == "bz2":
        import bz2

        return cast(BinaryIO, bz2.BZ2File(stream))
    if codec == "xz":
        import lzma

        return cast(BinaryIO, lzma.LZMAFile(stream))
    return cast(BinaryIO, stream)


def zstd() -> Any:
    """Return Python's zstd module, or the same from PyPI for a Python older than 3.14."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module
