"""Runs as training leaves them behind, made up for `llmc runs` and `llmc plot`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from llmc.config import TrainConfig
from llmc.model import ModelConfig
from llmc.paths import CHECKPOINT, CONFIG, METRICS, RECORD
from llmc.weights.checkpoint import write_checkpoint
from tests.helpers.models import some_tensors

TINY = ModelConfig(layers=1, heads=1, channels=4, context=4, vocab_size=8)
TINY_PARAMETERS = 8 * 4 + 4 * 4 + 12 * 4 * 4 + 13 * 4 + 2 * 4


def loss(step: int) -> float:
    """A training loss that falls, with some noise."""
    return 2 + 8 / (1 + step / 20) + (step * 7919 % 13 - 6) / 60


def a_past_run(
    runs: Path,
    name: str,
    *,
    steps: int = 100,
    planned: int | None = None,
    saved: int | None = -1,
    val_every: int = 20,
    lr: float = 1e-3,
    lift: float = 0.0,
    dataset: str = "texts",
    updated: float | None = None,
) -> Path:
    """Write a run of ``steps`` steps, 10 ms and 128 tokens each, saved at its end unless told."""
    folder = runs / name
    train = TrainConfig(steps=planned or steps, batch_size=4, seq_len=32, lr=lr)
    folder.mkdir(parents=True)
    tables = {"model": asdict(TINY), "train": asdict(train)}
    (folder / RECORD).write_text(json.dumps({"data": f"data/{dataset}/train.bin"}))
    config = []
    for table, settings in tables.items():
        config += [f"[{table}]", *(f"{key} = {json.dumps(v)}" for key, v in settings.items())]
    (folder / CONFIG).write_text("\n".join(config) + "\n")
    lines = []
    for step in range(steps + 1):
        if val_every and (step % val_every == 0 or step == steps):
            lines.append({"step": step, "val_loss": loss(step) + lift + 0.1})
        if step < steps:
            lines.append(
                {
                    "step": step, "train_loss": loss(step) + lift, "lr": lr, "grad_norm": 1 + lift,
                    "step_ms": 10.0, "tokens_per_second": 12800.0,
                }
            )  # fmt: skip
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if saved is not None:
        step = steps if saved < 0 else saved
        write_checkpoint(folder / CHECKPOINT, TINY, iter(some_tensors(TINY).items()), step=step)
    if updated is not None:
        for path in folder.iterdir():
            os.utime(path, (updated, updated))
    return folder
