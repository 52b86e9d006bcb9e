"""Export weights in the workspace of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmc.cli.context import Context
from llmc.weights.export import export_weights


def export(here: Context, source: str, **options: Any) -> Path:
    """Return the file or folder of an export."""
    return export_weights(here.workspace, source, report=here.ui, **options).path
