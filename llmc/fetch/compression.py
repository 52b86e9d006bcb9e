"""Compressed files: what a name's suffix means, and the stream of what they hold."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import IO, BinaryIO, cast

# The codec of a compressed file and of a compressed tar, by the last suffix of the name.
CODECS = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
TARS = {".tgz": "gz", ".tzst": "zst", ".tbz2": "bz2", ".txz": "xz"}
# Python 3.14 has zstd of its own; for an older one it comes from PyPI.
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
MODULES = {"gz": "gzip", "zst": ZSTD, "bz2": "bz2", "xz": "lzma"}


def decompressed(stream: IO[bytes], codec: str) -> BinaryIO:
    """Return the decompressed stream; ``codec`` is a value of :data:`CODECS`, or empty."""
    return cast(BinaryIO, import_module(MODULES[codec]).open(stream) if codec else stream)
