"""The model that ``llmc prepare`` prepared a dataset with, for ``llmc train`` to start from."""

from __future__ import annotations

import os
from pathlib import Path

from llmc.kinds import broken_explained
from llmc.parsing import read_json
from llmc.paths import Workspace, write_json

FILENAME = "prepared.json"


def record_prepared(workspace: Workspace, dataset: Path, model: Path) -> None:
    """Record the model of a dataset, as a path relative to the workspace.

    Raises:
        BadData: the place cannot be written.
    """
    place = os.path.relpath(model, workspace.root)
    write_json(dataset / FILENAME, {"model": place})


def prepared_model(workspace: Workspace, dataset: Path) -> Path | None:
    """Return the model that the dataset in this folder was prepared with; None if not recorded.

    Raises:
        BadData: the record cannot be read.
    """
    path = dataset / FILENAME
    if not path.exists():
        return None
    with broken_explained(path, "run 'llmc prepare NAME' again"):
        place = read_json(path)["model"]
        model = workspace.root / place
        return model if model.is_file() else None
