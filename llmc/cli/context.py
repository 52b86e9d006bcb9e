"""What every command gets: the workspace and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from llmc.cli.ui import Ui
from llmc.paths import Workspace


@dataclass(frozen=True)
class Context:
    """The global flags, resolved."""

    workspace: Workspace
    ui: Ui
