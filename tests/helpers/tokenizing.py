"""Datasets that a test makes of its texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmc.paths import Workspace
from llmc.tokens.dataset import tokenize
from llmc.tokens.manifest import Manifest, verify
from llmc.tokens.options import TokenizeOptions


def tokenized(workspace: Workspace, *inputs: Path | str, **options: Any) -> Manifest:
    """Tokenize, into bytes unless the options say otherwise, and read what came of it."""
    chosen = TokenizeOptions(**{"tokenizer": "byte", **options})
    manifest = tokenize(workspace, [str(path) for path in inputs], chosen).manifest
    verify(manifest)
    return manifest
