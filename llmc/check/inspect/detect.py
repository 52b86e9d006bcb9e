"""Detect what a file is from its first bytes; its name decides nothing."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from llmc.check import debug_state
from llmc.kinds import HEAD_BYTES, is_text, kind_of_bytes
from llmc.tokens import files as token_files
from llmc.tokens import tokenizer_bin
from llmc.weights import checkpoint
from llmc.weights import state as training_state

# Formats that begin with one of llm.c's numbers, little-endian.
MAGICS = {
    token_files.MAGIC16: "tokens",
    token_files.MAGIC32: "tokens",
    checkpoint.MAGIC: "checkpoint",
    debug_state.MAGIC: "debug_state",
    tokenizer_bin.MAGIC: "tokenizer.bin",
    training_state.MAGIC: "training_state",
}
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def kind_of(path: Path) -> str:
    """Return the kind of a file: of :func:`~llmc.kinds.kind_of_bytes` or of llmc's own formats.

    Raises:
        OSError: the file cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        return "special"
    with path.open("rb") as file:
        return kind_of_head(file.read(HEAD_BYTES))


def kind_of_head(head: bytes) -> str:
    """Return the kind of a file that begins with these bytes."""
    magic = MAGICS.get(int.from_bytes(head[:4], "little")) if len(head) >= 4 else None
    if magic is not None:
        return magic
    if re.match(rb".{8}\{\s*[\"}]", head, re.DOTALL) and not is_text(head[:8]):
        return "safetensors"
    kind = kind_of_bytes(head)
    return "tokenizer.tiktoken" if kind == "text" and TIKTOKEN_LINE.match(head) else kind
