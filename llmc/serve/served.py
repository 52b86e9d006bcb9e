"""The served model: a checkpoint with its tokenizer, and the run that saved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmc.config import SampleConfig
from llmc.engine.protocol import Ready
from llmc.errors import LlmcError
from llmc.model import parameter_count
from llmc.paths import BEST, CHECKPOINT, METRICS
from llmc.sample.model import SampleModel
from llmc.tokens.tokenizer import Tokenizer
from llmc.train.curves import extremes
from llmc.train.history import read_run
from llmc.train.metrics import Point
from llmc.train.plots import plot_of
from llmc.units import finite
from llmc.weights.checkpoint import read_header

MOST_POINTS = 600


def served_model(chosen: SampleModel) -> ServedModel:
    """Return the served form of a model whose tokenizer is known."""
    assert chosen.tokenizer is not None
    folder = chosen.checkpoint.parent
    is_run = chosen.checkpoint.name in (BEST, CHECKPOINT) and (folder / METRICS).is_file()
    return ServedModel(
        folder.name if is_run else chosen.checkpoint.stem,
        chosen.checkpoint,
        chosen.tokenizer,
        chosen.settings,
        folder if is_run else None,
        chosen.unix,
    )


@dataclass(frozen=True)
class ServedModel:
    """A model that a server offers."""

    name: str  # the run's name, or the file's
    checkpoint: Path  # the file
    tokenizer: Tokenizer
    settings: SampleConfig  # the sampling settings of its run
    run: Path | None  # the run's folder; None for a file outside a run
    unix: bool = True  # CR LF and CR in prompts become LF, as in its texts

    def facts(self, ready: Ready) -> dict[str, Any]:
        """Return the facts that the page shows: shape, size, training, and the engine's memory."""
        header, template = read_header(self.checkpoint), self.tokenizer.template
        run = read_run(self.run) if self.run is not None else None
        return {
            "model": self.name,
            "run": self.run.name if self.run is not None else None,
            "parameters": parameter_count(header.config),
            **asdict(header.config),
            "tokenizer": self.tokenizer.name,
            "chat_template": template.name if template is not None else None,
            "step": header.step,
            "val_loss": finite(header.val_loss),
            "dataset": run.dataset if run is not None else None,
            "tokens_seen": run.tokens if run is not None else None,
            "training_seconds": run.seconds if run is not None else None,
            "engine": asdict(ready),
            "sample": asdict(self.settings),
        }

    def curves(self) -> dict[str, Any]:
        """Return the losses of the run as columns of points; no columns without a run."""
        if self.run is None or not (self.run / METRICS).is_file():
            return {"run": None}
        run = read_run(self.run)
        try:
            (curve,) = plot_of([run], "loss", "steps").curves
        except LlmcError:  # nothing was measured
            return {"run": None}
        raw = curve.raw if curve.window > 1 else []
        return {
            "run": run.name,
            "window": curve.window,
            "line": _columns(curve.smooth),
            "raw": _columns(raw),
            "val": _columns(curve.val),
        }


def _columns(points: Sequence[Point]) -> dict[str, list[float]]:
    kept = extremes(points, MOST_POINTS)
    return {
        "step": [int(step) for step, _ in kept],
        "loss": [float(f"{loss:.5g}") for _, loss in kept],
    }
