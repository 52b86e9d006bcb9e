"""Texts that tokenizers split in unusual ways."""

from __future__ import annotations

from pathlib import Path

import llmc.tokens.tokenizer as under_test

SOURCES = [path.read_text() for path in sorted(Path(under_test.__file__).parent.rglob("*.py"))]
AWKWARD = [
    "",
    " ",
    "\n\n  \t\r\n x",
    "don't WE'LL 've '' 's",
    "  two  spaces   three    ",
    "naïve café — 東京 🙂🙃 \u200d ﷽",
    "x" * 300 + " " * 300 + "12345678901234567890",
    "<|endoftext|> is text <|endoftext|>",
    "\0\x01\x7f",
]
