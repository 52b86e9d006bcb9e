"""What the tests of ``llmc fetch`` share."""

from __future__ import annotations

from pathlib import Path

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 1000
CONFIG = b'{"n_layer": 12}'
WEIGHTS = bytes(range(256)) * 4096


def nothing_in(folder: Path) -> bool:
    return not folder.exists() or not list(folder.rglob("*"))
