"""Masks of token files: where the loss counts, and where conversations and turns begin.

A mask lies beside its token file and has a byte for each token; ``native/files/format.h`` has the
layout.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmc.errors import BadData
from llmc.kinds import unreadable_explained
from llmc.paths import written_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.uint8]  # (n,), a byte for each token
    Marked = NDArray[Any]  # (n,): integers, or records of MARKED

HEADER_BYTES = 1024
HEADER = struct.Struct("<4I")  # magic, version, count and what int 3 says; zeros follow
MASK_MAGIC, MASK_VERSION = 20261128, 1
# The bits of a token's byte: the loss counts where this token is predicted; a conversation begins
# at it; a turn begins at it.
COUNTS, CONVERSATION, TURN = 1, 2, 4
MARKED = [("id", "<u4"), ("mask", "u1")]  # an id and its byte, as one record of numpy
AGAIN = "make it with 'llmc tokenize PATH'"


def mask_path(path: Path) -> Path:
    """Return the mask's file of a token file: ``.mask`` replaces ``.bin`` or is added."""
    return path.with_name(path.name.removesuffix(".bin") + ".mask")


class MaskWriter:
    """The file of a mask that is being written; it is whole when the context ends well."""

    sha256 = ""  # of the payload, once it is whole

    def __init__(self, path: Path) -> None:
        self._stack = ExitStack()
        self._path = path
        self._file: BinaryIO
        self._crc = self._count = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> MaskWriter:
        partial = self._stack.enter_context(written_whole(self._path))
        self._file = self._stack.enter_context(partial.open("wb"))
        self._file.write(bytes(HEADER_BYTES))
        return self

    def add(self, ids: NDArray[Any], mask: Mask) -> None:
        """Write the mask (n,) of ids (n,)."""
        if mask.shape != ids.shape or (
            mask.size and int(mask.max()) > COUNTS | CONVERSATION | TURN
        ):
            raise ValueError("a mask has a byte for each token, of the bits 1, 2 and 4")
        payload = mask.astype("u1", copy=False).tobytes()
        self._crc = zlib.crc32(payload, self._crc)
        self._digest.update(payload)
        self._file.write(payload)
        self._count += len(payload)

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is None:
            self._file.seek(0)
            self._file.write(HEADER.pack(MASK_MAGIC, MASK_VERSION, self._count, self._crc))
            self.sha256 = self._digest.hexdigest()
        self._stack.__exit__(*failure)


def mask_problems(path: Path, name: str, count: int) -> list[str]:
    """Compare the header and the size of a token file's mask with its ``count`` tokens.

    Returns:
        The problems of ``name``, the token file, a sentence each.
    """
    mask = mask_path(path)
    try:
        with mask.open("rb") as file:
            raw = file.read(HEADER_BYTES)
            size = file.seek(0, 2)
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
    else:
        magic, version, masked, _ = HEADER.unpack(raw[: HEADER.size].ljust(HEADER.size, b"\0"))
        if (magic, version) != (MASK_MAGIC, MASK_VERSION):
            why = f"begins with {magic}, {version}, not {MASK_MAGIC}, {MASK_VERSION}"
        elif masked != count or size != HEADER_BYTES + count:
            why = f"is for {masked:,} tokens and has {size:,} bytes, not {HEADER_BYTES + count:,}"
        else:
            return []
    return [_bad_mask(name, mask, why)]


def _bad_mask(name: str | Path, mask: Path, why: str) -> str:
    return f"{name} counts the loss only where its mask says, and {mask} {why}; {AGAIN}"


def scan_mask(mask: Path) -> tuple[int | None, list[str]]:
    """Read the header of a mask by itself.

    Returns:
        The tokens that it is for, None without a whole header; and the problems, a sentence each.

    Raises:
        OSError: the file cannot be read.
    """
    with mask.open("rb") as file:
        raw = file.read(HEADER_BYTES)
        size = file.seek(0, 2)
    if len(raw) < HEADER_BYTES:
        return None, [f"it is cut short: it has {len(raw)} bytes of its header's {HEADER_BYTES}"]
    _, version, count, _ = HEADER.unpack(raw[: HEADER.size])
    problems = []
    if version != MASK_VERSION:
        problems.append(f"it is a mask of version {version}, and only {MASK_VERSION} is known")
    if size != HEADER_BYTES + count:
        problems.append(
            f"it is for {count:,} tokens and has {size:,} bytes, not {HEADER_BYTES + count:,}; "
            f"{AGAIN}"
        )
    return count, problems


def checked_mask(path: Path, count: int) -> Mask:
    """Map the mask (n,) of the token file ``path``, whose header is checked, of ``count`` tokens.

    Raises:
        BadData: its checksum is another, or it has unknown bits.
    """
    import numpy as np

    mask = mask_path(path)
    with unreadable_explained(mask, AGAIN):
        why = damage(mask)
    if why is not None:
        raise BadData(_bad_mask(path, mask, why))
    if not count:
        return np.empty(0, "u1")
    return np.memmap(mask, "u1", mode="r", offset=HEADER_BYTES, shape=(count,))


def damage(mask: Path) -> str | None:
    """Return what is wrong with the bytes of a mask whose header is checked; None: nothing.

    Raises:
        OSError: the file cannot be read.
    """
    import numpy as np

    with mask.open("rb") as file:
        said, crc, seen = HEADER.unpack(file.read(HEADER_BYTES)[: HEADER.size])[3], 0, 0
        while piece := file.read(1 << 20):
            crc = zlib.crc32(piece, crc)
            seen |= int(np.bitwise_or.reduce(np.frombuffer(piece, "u1")))
    if crc != said:
        return "is damaged: its checksum is not the header's"
    if seen > COUNTS | CONVERSATION | TURN:
        return f"is damaged: it has unknown bits ({seen:#x})"
    return None
