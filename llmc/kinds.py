"""What a file is, by its first bytes, whatever its name says."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 4096  # the first bytes, by which a kind is recognized
CODECS = {"gzip": "gz", "zstd": "zst", "bzip2": "bz2", "xz": "xz"}  # of the compressed kinds

_STARTS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"GGUF", "gguf"),
    (b"PK\x03\x04", "zip"),
    (b"PAR1", "parquet"),
    (b"%PDF", "pdf"),
    (b"\x7fELF", "elf"),
    (b"\x93NUMPY", "npy"),
    (b"version https://git-lfs", "lfs"),
    *((bytes((0x80, protocol)), "pickle") for protocol in range(2, 6)),
)


def kind_of_bytes(head: bytes) -> str:
    """Return the kind of a file that begins with ``head``.

    One of ``empty``, ``gzip``, ``zstd``, ``bzip2``, ``xz``, ``gguf``, ``zip``, ``parquet``,
    ``pdf``, ``elf``, ``npy``, ``pickle``, ``tar``, ``html``, ``lfs`` (a git-lfs pointer), ``json``,
    ``text`` and ``unknown``.
    """
    if not head:
        return "empty"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    shown = head.lstrip()[:20].lower()
    if shown.startswith((b"<!doctype html", b"<html")):
        return "html"
    if not is_text(head):
        return "unknown"
    return "json" if shown.startswith((b"{", b"[")) else "text"


def codec_of_bytes(head: bytes) -> str:
    """Return the codec of compressed data: ``gz``, ``zst``, ``bz2`` or ``xz``; else empty."""
    return CODECS.get(kind_of_bytes(head), "")


def is_text(head: bytes) -> bool:
    """Tell whether bytes are UTF-8 without control characters, apart from a character cut off."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)


def not_data(head: bytes, name: str, *, page_is_fine: bool = False) -> str | None:
    """Return a sentence if ``head`` shows a file that stands in for the real one, else None.

    Args:
        head: the file's first bytes.
        name: how messages call the file.
        page_is_fine: a web page may be the real file, for example a text.
    """
    kind = kind_of_bytes(head)
    if kind == "lfs":
        return f"{name} is a git-lfs pointer, not the file: run 'git lfs pull' in its repository"
    if kind == "html" and not page_is_fine:
        return f"{name} is a web page, not data: the download went wrong; download it again"
    return None
