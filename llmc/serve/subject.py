"""What is served: a checkpoint with its tokenizer, and the run that made it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmc.config import SampleConfig
from llmc.engine.protocol import Ready
from llmc.errors import BadData, LlmcError
from llmc.model import parameter_count
from llmc.paths import CHECKPOINT, METRICS
from llmc.sample.text import Weights
from llmc.tokens.tokenizer import Tokenizer
from llmc.train.curves import extremes
from llmc.train.history import read_run
from llmc.train.plots import plot_of
from llmc.weights.checkpoint import CheckpointHeader, read_header

MOST_POINTS = 600


def subject_of(chosen: Weights) -> Subject:
    """Return what is served by a choice of weights whose tokenizer is known.

    Raises:
        BadData: the model has tokens that the tokenizer has not.
    """
    assert chosen.tokenizer is not None
    if chosen.model.vocab_size > chosen.tokenizer.vocab_size:
        raise BadData(
            f"{chosen.checkpoint} has {chosen.model.vocab_size} tokens and its tokenizer "
            f"'{chosen.tokenizer.name}' {chosen.tokenizer.vocab_size}: not all it writes is text"
        )
    folder = chosen.checkpoint.parent
    is_run = chosen.checkpoint.name == CHECKPOINT and (folder / METRICS).is_file()
    return Subject(
        folder.name if is_run else chosen.checkpoint.stem,
        chosen.checkpoint,
        chosen.tokenizer,
        chosen.settings,
        folder if is_run else None,
    )


@dataclass(frozen=True)
class Subject:
    """A model to be served.

    Attributes:
        name: what clients call it: the run's name, or the file's.
        checkpoint: its file.
        tokenizer: what its ids mean.
        settings: how its run would sample.
        run: its run's folder, None where it has none.
    """

    name: str
    checkpoint: Path
    tokenizer: Tokenizer
    settings: SampleConfig
    run: Path | None

    def facts(self, ready: Ready) -> dict[str, Any]:
        """Return what a page can tell of it: shape, size, training, and how the engine holds it."""
        header: CheckpointHeader = read_header(self.checkpoint)
        run = read_run(self.run) if self.run is not None else None
        return {
            "model": self.name,
            "run": self.run.name if self.run is not None else None,
            "parameters": parameter_count(header.config),
            **asdict(header.config),
            "tokenizer": self.tokenizer.name,
            "step": header.step,
            "val_loss": _finite(header.val_loss),
            "dataset": run.dataset if run is not None else None,
            "tokens_seen": run.tokens if run is not None else None,
            "training_seconds": run.seconds if run is not None else None,
            "engine": asdict(ready),
            "sample": asdict(self.settings),
        }

    def curves(self) -> dict[str, Any]:
        """Return the losses of its run as columns of points; none where there is no run."""
        if self.run is None or not (self.run / METRICS).is_file():
            return {"run": None}
        run = read_run(self.run)
        try:
            (curve,) = plot_of([run], "loss", "steps").curves
        except LlmcError:  # nothing was measured
            return {"run": None}
        drawn = {
            "line": curve.smooth,
            "raw": curve.raw if curve.window > 1 else [],
            "val": curve.val,
        }
        return {
            "run": run.name,
            "window": curve.window,
            **{
                kind: {
                    "step": [int(step) for step, _ in kept],
                    "loss": [float(f"{loss:.5g}") for _, loss in kept],
                }
                for kind, points in drawn.items()
                for kept in [extremes(points, MOST_POINTS)]
            },
        }


def _finite(number: float | None) -> float | None:
    """Return a number that JSON can tell."""
    return number if number is not None and math.isfinite(number) else None
