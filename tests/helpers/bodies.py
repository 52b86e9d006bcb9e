"""What the tests' server sends."""

from __future__ import annotations

import hashlib
from pathlib import Path

BODY = bytes(range(251)) * 4000  # a megabyte without a period of a power of two
SIZE = len(BODY)
SHA256 = hashlib.sha256(BODY).hexdigest()


def left(folder: Path) -> list[str]:
    """Return what lies in the cache, but for the locks."""
    files = (folder / "downloads").glob("*")
    return sorted(path.name for path in files if not path.name.endswith(".lock"))
