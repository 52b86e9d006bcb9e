"""What an interrupted run says that it has saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.cli.commands.train import _interrupted
from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.config import TrainConfig
from llmc.engine.launcher import ALONE
from llmc.paths import RECORD, Workspace
from llmc.train.loop import TrainResult
from llmc.train.metrics import Progress


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (None, "not saved"),
        (5, "step 5 is saved, and what came after it is lost"),
        (9, "saved {folder}/model.bin"),
    ],
)
def test_an_interrupted_run_says_what_is_lost(tmp_path: Path, saved: int | None, said: str) -> None:
    """A second Ctrl-C leaves the checkpoint before."""
    workspace = Workspace(tmp_path)
    folder = workspace.runs / "r"
    folder.mkdir(parents=True)
    (folder / RECORD).touch()
    if saved is not None:
        (folder / "checkpoints" / f"{saved:08}").mkdir(parents=True)
    train = [(step, 1.0) for step in range(9)]
    progress = Progress(20, train=train, saved_step=saved)  # type: ignore[arg-type]
    result = TrainResult(folder, TrainConfig(), progress, interrupted=True)
    error = _interrupted(Context(workspace, Ui()), result, ALONE)
    assert str(error) == f"interrupted after 9 of 20 steps; {said.format(folder=folder)}"
