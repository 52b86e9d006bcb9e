"""Rows of a token file to evaluate: the tokens that the model reads, and those it predicts.

The layout is defined in ``native/files/format.h``: a header of 256 int32, then (start, length,
from) for each row.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmc.paths import written_whole
from llmc.tokens.files import HEADER_BYTES

MAGIC, VERSION = 20250917, 1


def write_rows(path: Path, rows: Iterable[tuple[int, int, int]]) -> None:
    """Write ``rows``, each (start, length, from): tokens from to length - 1 of it are predicted.

    Raises:
        BadData: the disk is full.
    """
    import numpy as np

    table = np.array(list(rows), dtype="<u4").reshape(-1, 3)
    header = np.zeros(HEADER_BYTES // 4, dtype="<u4")
    header[:3] = (MAGIC, VERSION, len(table))
    with written_whole(path) as partial:
        partial.write_bytes(header.tobytes() + table.tobytes())
