"""What ``llmc prepare`` prepared a dataset with, for ``llmc train`` to start from.

That is a model, or none: training chooses its shape then.
"""

from __future__ import annotations

import os
from pathlib import Path

from llmc.kinds import broken_explained
from llmc.parsing import read_json
from llmc.paths import Workspace, write_json

FILENAME = "prepared.json"


def record_prepared(workspace: Workspace, dataset: Path, model: Path | None) -> None:
    """Record the model of a dataset, as a path relative to the workspace; None: to be chosen.

    Raises:
        BadData: the place cannot be written.
    """
    place = os.path.relpath(model, workspace.root) if model is not None else None
    write_json(dataset / FILENAME, {"model": place})


def prepared_model(workspace: Workspace, dataset: Path) -> Path | None:
    """Return the model that the dataset in this folder was prepared with; None if not recorded.

    Raises:
        BadData: the record cannot be read.
    """
    place = _recorded(dataset)
    model = workspace.root / place if place is not None else None
    return model if model is not None and model.is_file() else None


def awaits_model(dataset: Path) -> bool:
    """Return whether the dataset in this folder was prepared, and its model is to be chosen.

    Raises:
        BadData: the record cannot be read.
    """
    return (dataset / FILENAME).exists() and _recorded(dataset) is None


def _recorded(dataset: Path) -> str | None:
    path = dataset / FILENAME
    if not path.exists():
        return None
    with broken_explained(path, "run 'llmc prepare NAME' again"):
        place = read_json(path)["model"]
        return None if place is None else os.fspath(place)
