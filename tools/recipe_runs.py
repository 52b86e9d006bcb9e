"""The runs that the rule of ``llmc train --for`` rests on (llmc/train/recipe.py).

.venv/bin/python tools/recipe_runs.py build/recipe TEXT

TEXT is a folder of text; docs/guide/dial.md used the ``.rst.txt`` sources of Python 3.11's
documentation. Each run is kept in docs/measured/recipe.json as soon as it ends, so that a stopped
call continues when it is repeated. A loss does not depend on the machine or on its load, the
seconds do. All runs together take about three hours of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import llmc
from llmc.engine.machine import cpu_name
from llmc.model import ModelConfig, parameter_count
from llmc.paths import written_whole
from llmc.train.loop import TrainResult

RESULT = Path(__file__).resolve().parents[1] / "docs" / "measured" / "recipe.json"

Run = dict[str, Any]
USUAL: Run = {"tokenizer": "bpe:2048", "T": 64, "update": 512, "decay": 0.4}
PASS = 614_400  # tokens of a short run


def of(layers: int, channels: int, tokens: int, lr: float, **other: Any) -> Run:
    """Return a run of a model of so many layers and channels."""
    return {**USUAL, "layers": layers, "channels": channels, "tokens": tokens, "lr": lr, **other}


def by_muon(layers: int, channels: int, tokens: int, lr: float, **other: Any) -> Run:
    """Return a run with Muon in bf16, in updates of 1,024 tokens."""
    usual: Run = {"optimizer": "muon", "dtype": "bf16", "update": 1024, "val_tokens": 81920}
    return of(layers, channels, tokens, lr, **{**usual, **other})


RUNS = [
    # Learning rates.
    *(of(2, 64, PASS, lr) for lr in (2e-3, 4e-3, 8e-3)),
    *(of(4, 128, PASS, lr) for lr in (1e-3, 2e-3, 4e-3)),
    # Loss over parameters and tokens.
    of(2, 64, 3_072_000, 4e-3, decay=0.3),
    of(2, 64, 12_288_000, 4e-3, decay=0.3),
    of(3, 96, 7_372_800, 2.7e-3, decay=0.3),
    of(4, 128, 2_048_000, 2e-3, decay=0.3),
    of(4, 128, 4_096_000, 2e-3, decay=0.3),
    of(6, 192, 1_024_000, 1.4e-3, decay=0.3),
    # The decay, the window, the vocabulary.
    of(4, 128, PASS, 2e-3, decay=0.7),
    of(4, 128, PASS, 2e-3, T=128),
    *(of(3, 96, 2 * PASS, 2.4e-3, tokenizer=name) for name in ("bpe:2048", "bpe:4096")),
    # Muon's rates.
    *(by_muon(2, 64, 2_048_000, lr) for lr in (5.4e-3, 8e-3, 1.2e-2, 1.8e-2)),
    *(by_muon(3, 96, 2_048_000, lr) for lr in (3.6e-3, 5.4e-3, 8e-3, 1.2e-2)),
    *(by_muon(3, 96, 1_024_000, lr, update=256) for lr in (3.6e-3, 5e-3)),
    *(by_muon(3, 96, 5_120_000, lr, T=128) for lr in (3.6e-3, 5e-3)),
    *(by_muon(4, 128, 1_638_400, lr) for lr in (2.7e-3, 4e-3, 6e-3)),
    *(by_muon(4, 128, 4_096_000, lr) for lr in (2.7e-3, 3.8e-3)),
    *(by_muon(6, 192, 1_024_000, lr) for lr in (1.8e-3, 3e-3, 4.5e-3)),
    *(by_muon(6, 192, 2_048_000, lr) for lr in (1.8e-3, 4.5e-3)),
    *(by_muon(6, 256, 716_800, lr) for lr in (1.35e-3, 5e-3)),
    *(by_muon(8, 320, 409_600, lr) for lr in (1.1e-3, 5e-3)),
]


def dataset(workspace: Path, text: Path, tokenizer: str) -> Path:
    """Return the folder of the text's dataset with a tokenizer, made unless it is there."""
    folder = workspace / "data" / f"{text.name}-{tokenizer.replace(':', '')}"
    if not (folder / "manifest.json").is_file():
        llmc.tokenize(text, workspace=workspace, tokenizer=tokenizer, out=folder)
    return folder


def train(workspace: Path, data: Path, run: Run) -> tuple[TrainResult, int]:
    """Train one model from scratch; return its result and its parameters."""
    T, update, steps = run["T"], run["update"], run["tokens"] // run["update"]
    vocab_size = json.loads((data / "manifest.json").read_text())["tokenizer"]["vocab_size"]
    heads, muon = run["channels"] // 32, run.get("optimizer") == "muon"
    shape = ModelConfig(run["layers"], heads, run["channels"], T, vocab_size)
    result = llmc.train(
        data,
        model=shape,
        workspace=workspace,
        steps=steps,
        batch_size=update // T,
        seq_len=T,
        lr=run["lr"],
        schedule="wsd",
        decay=run["decay"],
        warmup=max(steps // 50, 10) if muon else min(60, steps // 10),
        optimizer=run.get("optimizer", "adamw"),
        dtype=run.get("dtype", "fp32"),
        beta2=0.99,
        weight_decay=0.1,
        grad_clip=1.0,
        val_every=steps // 10,
        val_tokens=run.get("val_tokens", 40960),
        sample_every=0,
        save_every=0,
    )
    return result, parameter_count(shape)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("text", type=Path)
    arguments = parser.parse_args()
    found: list[Run] = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    for run in RUNS:
        if any(run.items() <= each.items() for each in found):
            continue
        began = time.monotonic()
        data = dataset(arguments.workspace, arguments.text, run["tokenizer"])
        result, parameters = train(arguments.workspace, data, run)
        if result.interrupted or result.bits_per_byte is None:
            return
        measured = {
            "parameters": parameters,
            "val_loss": result.val_loss,
            "val_error": result.val_error,
            "bits_per_byte": result.bits_per_byte,
            "losses": [[int(step) * run["update"], loss] for step, loss, *_ in result.progress.val],
            "seconds": round(time.monotonic() - began),
            "cpu": cpu_name(),
        }
        shutil.rmtree(result.folder)
        found.append({**run, **measured})
        with written_whole(RESULT) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n")
        assert result.val_loss is not None and math.isfinite(result.val_loss)
        print(f"{run}: {result.val_loss:.3f} nats, {result.bits_per_byte:.3f} bits per byte")


if __name__ == "__main__":
    main()
