"""What every command is given: the workspace it works in and the voice it speaks with."""

from __future__ import annotations

from dataclasses import dataclass

from llmc.cli.ui import Ui
from llmc.paths import Workspace


@dataclass(frozen=True)
class Context:
    """The global flags, resolved."""

    workspace: Workspace
    ui: Ui
