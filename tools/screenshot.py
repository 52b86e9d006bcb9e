"""Draws docs/measured/training.svg: the training view of a real run, two thirds through.

make setup && .venv/bin/llmc --workspace build/demo prepare stdlib
.venv/bin/python tools/screenshot.py build/demo
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.cli.views.training import History, LiveView, SilentView
from llmc.config import load_preset
from llmc.engine.build import ensure_native
from llmc.engine.machine import available_cores
from llmc.model import flops_per_token
from llmc.paths import Workspace
from llmc.train.loop import engine_arguments, run_engine
from llmc.train.metrics import Event
from llmc.train.start import Data, find_data, find_model

WIDTH, HEIGHT = 88, 30


class Enough(Exception):
    """The picture is taken."""


class Camera(SilentView):
    """Keeps the view up to a step, then exports it."""

    def __init__(self, steps: int, out: Path) -> None:
        """Aim at ``out`` and wait for the step."""
        self.console = Console(
            record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True
        )
        self.view = LiveView(self.console, "llmc train · stdlib-1")
        self.steps = steps
        self.out = out

    def update(self, event: Event, history: History) -> None:
        """Take the picture once the step is reached and a sample is there."""
        if len(history.train) >= self.steps:
            self.console.print(self.view.picture(history))
            self.console.save_svg(str(self.out), title="llmc train --config python-stdlib")
            raise Enough


def main() -> None:
    """Train on the prepared dataset until the picture is taken."""
    here = Context(Workspace(Path(sys.argv[1])), Ui())
    preset = load_preset("python-stdlib")
    settings = preset.train
    data: Data = find_data(here, None, None)
    with tempfile.TemporaryDirectory() as scratch:
        argv = engine_arguments(
            data, find_model(here, None, data), Path(scratch), settings, available_cores()
        )
        out = Path(__file__).resolve().parents[1] / "docs" / "measured" / "training.svg"
        camera = Camera(settings.steps * 2 // 3, out)
        try:
            run_engine(
                [str(ensure_native()), "train", *argv],
                camera,
                History(
                    settings.steps, flops_per_token=flops_per_token(preset.model, settings.seq_len)
                ),
                data.decode,
            )
        except Enough:
            print(f"wrote {out}")


if __name__ == "__main__":
    main()
