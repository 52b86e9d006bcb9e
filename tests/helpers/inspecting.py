"""Descriptions by ``llmc inspect``, and what they are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmc.check.inspect.describe import describe
from llmc.check.inspect.description import Description
from llmc.check.inspect.reading import Options
from llmc.cli.views.inspection import plain_lines
from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.tokens.tokenizer import Tokenizer

TINY = ModelConfig(layers=2, heads=2, channels=32, context=16, vocab_size=257)


def asked(folder: Path, **others: Any) -> Options:
    return Options(Workspace(folder), **others)


def looked_at(path: Path, **others: Any) -> dict[str, Any]:
    """Describe a path and return what JSON says of it; what is shown must be printable."""
    return as_told(describe(path, asked(path.parent, **others)))


def as_told(made: Description) -> dict[str, Any]:
    for text in plain_lines(made):
        assert text.isprintable(), ascii(text)
    told: dict[str, Any] = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert told["ok"] == (not made.all_problems())
    return told


def documents(byte: Tokenizer, *texts: str) -> list[int]:
    return [token for text in texts for token in [byte.eot, *text.encode()]]


def told_problem(path: Path) -> str:
    made = describe(path, asked(path.parent))
    as_told(made)
    return " / ".join(made.all_problems())
