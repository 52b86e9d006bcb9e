"""What a file is, told by its first bytes; its name decides nothing."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from llmc.check import debug_state
from llmc.check.inspect.reading import head_of
from llmc.tokens import files as tokens
from llmc.tokens import tokenizer_bin
from llmc.weights import checkpoint
from llmc.weights import state as training_state

HEAD = 4096

# Kinds that begin with one of llm.c's numbers, little-endian.
MAGICS = {
    tokens.MAGIC16: "tokens",
    tokens.MAGIC32: "tokens",
    checkpoint.MAGIC: "checkpoint",
    debug_state.MAGIC: "debug_state",
    tokenizer_bin.MAGIC: "tokenizer.bin",
    training_state.MAGIC: "training_state",
}
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")

# What others begin with: the bytes, what it is, what to do with it.
FOREIGN = (
    (b"\x1f\x8b", "gzip", "gzip-compressed data", "'llmc tokenize' reads the text in it"),
    (b"\x28\xb5\x2f\xfd", "zstd", "Zstandard-compressed data", "decompress it with 'zstd -d'"),
    (b"BZh", "bzip2", "bzip2-compressed data", "decompress it with 'bunzip2'"),
    (b"\xfd7zXZ\0", "xz", "xz-compressed data", "decompress it with 'unxz'"),
    (b"PAR1", "parquet", "a Parquet table", "its text column is what 'llmc tokenize' wants"),
    (b"%PDF", "pdf", "a PDF document", "extract its text first"),
    (b"\x7fELF", "elf", "a program", "it is nothing that llmc reads"),
    (b"\x93NUMPY", "npy", "a NumPy array", "write tokens as raw uint16 to use them (--dtype)"),
)
STARTS = (
    (b"GGUF", "gguf"),
    (b"PK\x03\x04", "zip"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x03", "pickle"),
    (b"\x80\x04", "pickle"),
    *((start, kind) for start, kind, _, _ in FOREIGN),
)


def kind_of(path: Path) -> str:
    """Return the kind of a file.

    Raises:
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        return "special"
    return kind_of_bytes(head_of(path, HEAD))


def kind_of_bytes(head: bytes) -> str:
    """Return the kind of a file that begins with these bytes; ``unknown`` where nothing fits."""
    if not head:
        return "empty"
    magic = MAGICS.get(int.from_bytes(head[:4], "little")) if len(head) >= 4 else None
    if magic is not None:
        return magic
    if re.match(rb".{8}\{\s*[\"}]", head, re.DOTALL) and not _is_text(head[:8]):
        return "safetensors"
    for start, kind in STARTS:
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    return _kind_of_text(head) if _is_text(head) else "unknown"


def _is_text(head: bytes) -> bool:
    """Say whether bytes are UTF-8 without controls, but for a character cut at the end."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3 or error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode()
    return not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)


def _kind_of_text(head: bytes) -> str:
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if head.startswith(b"version https://git-lfs"):
        return "lfs"
    if TIKTOKEN_LINE.match(head):
        return "tokenizer.tiktoken"
    if start.startswith((b"{", b"[")):
        return "json"
    return "text"
