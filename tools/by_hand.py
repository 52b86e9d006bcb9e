"""``llmc train --for TIME`` against twelve runs with settings of one's own, on one text.

.venv/bin/python tools/by_hand.py build/by_hand TEXT --seconds 300

The twelve are what a careful person would try: three shapes, two learning rates and both
optimizers; on a text under 200 KB two shapes, two rates and three numbers of passes. Each is as
long as the machine needs TIME for on one thread, which is measured first, on a quiet machine. So
is the dial's own run. The twelve are then given their steps, and do not depend on the load. Results
are kept in docs/measured/by_hand.json as soon as they are there; a stopped call continues when it
is repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import llmc
from llmc.config import TrainConfig
from llmc.engine.machine import cpu_name
from llmc.model import ModelConfig, parameter_count
from llmc.paths import written_whole
from llmc.tokens.manifest import Manifest, load_manifest
from llmc.train.loop import TrainResult
from llmc.weights.checkpoint import read_header

RESULT = Path(__file__).resolve().parents[1] / "docs" / "measured" / "by_hand.json"
B, T = 8, 64
UPDATE = B * T
RATES = (1e-3, 3e-3)
VAL_TOKENS = 20480
SMALL = 200_000  # bytes of text, below which the passes are what matters
TRIAL = 8  # seconds in which a shape's speed is measured

Run = dict[str, Any]


def runs(text_bytes: int) -> list[Run]:
    """Return the twelve runs for a text of so many bytes."""
    keys: tuple[str, ...] = ("shape", "lr", "optimizer")
    choices: list[tuple[Any, ...]] = [((2, 64), (4, 128), (6, 192)), RATES, ("adamw", "muon")]
    if text_bytes < SMALL:
        keys = "shape", "lr", "passes"
        choices = [((2, 64), (4, 128)), RATES, (5, 15, 40)]
    return [dict(zip(keys, run, strict=True)) for run in itertools.product(*choices)]


class Results:
    """What was measured, in a file."""

    def __init__(self) -> None:
        """Read what is there."""
        self.all: list[Run] = json.loads(RESULT.read_text()) if RESULT.is_file() else []

    def find(self, **key: Any) -> Run | None:
        """Return the result of a run."""
        plain = json.loads(json.dumps(key))
        return next((each for each in self.all if plain.items() <= each.items()), None)

    def add(self, key: Run, **measured: Any) -> Run:
        """Keep a result."""
        self.all.append(json.loads(json.dumps({**key, **measured, "cpu": cpu_name()})))
        with written_whole(RESULT) as partial:
            partial.write_text(json.dumps(self.all, indent=1) + "\n")
        print(self.all[-1], flush=True)
        return self.all[-1]


def dataset(workspace: Path, text: Path) -> Manifest:
    """Return the text's dataset, as ``llmc prepare`` makes it."""
    folder = workspace / "data" / text.stem
    if not (folder / "manifest.json").is_file():
        llmc.tokenize(text, workspace=workspace, tokenizer="auto", out=folder)
    return load_manifest(folder)


def train(
    workspace: Path, data: Manifest, run: Run, steps: int, seconds: float | None = None
) -> TrainResult:
    """Train a new model with settings of one's own."""
    layers, channels = run["shape"]
    return llmc.train(
        data.folder,
        model=ModelConfig(layers, channels // 32, channels, T, data.tokenizer.vocab_size),
        workspace=workspace,
        threads=1,
        steps=steps,
        max_time=f"{seconds:g}s" if seconds else "0",
        batch_size=B,
        seq_len=T,
        lr=run["lr"],
        optimizer=run.get("optimizer", "adamw"),
        schedule="wsd",
        decay=0.4,
        warmup=max(steps // 50, 1),
        beta2=0.99,
        weight_decay=0.1,
        grad_clip=1.0,
        val_every=max(steps // 10, 1),
        val_tokens=VAL_TOKENS,
        sample_every=0,
        save_every=0,
    )


def outcome(result: TrainResult) -> Run:
    """Return the losses of a run, whose folder is removed; end the program if it was stopped."""
    shutil.rmtree(result.folder)
    if result.interrupted:
        raise SystemExit(130)
    losses = [[int(step), loss] for step, loss, *_ in result.progress.val]
    step, best = min(losses, key=lambda each: each[1])
    return {"steps": result.steps, "best": best, "best_step": step, "losses": losses}


def by_dial(workspace: Path, data: Manifest, seconds: int) -> Run:
    """Return the outcome of the dial's run, with what it chose."""
    began = time.monotonic()
    result = llmc.train(
        data.folder, workspace=workspace, budget=f"{seconds}s", threads=1, val_tokens=VAL_TOKENS
    )
    taken = round(time.monotonic() - began)
    model = read_header(result.folder / "model.bin").config
    settings: TrainConfig = result.settings
    chosen = {name: getattr(settings, name) for name in ("lr", "seq_len", "optimizer")}
    return {
        "shape": [model.layers, model.channels],
        "parameters": parameter_count(model),
        **chosen,
        "update": settings.tokens_per_step,
        **outcome(result),
        "seconds_taken": taken,
    }


def measure(workspace: Path, data: Manifest, key: Run, run: Run, results: Results) -> float:
    """Return the updates a second of a shape with an optimizer, measured once."""
    kind = {name: run[name] for name in ("shape", "optimizer") if name in run}
    found = results.find(**key, by="rate", **kind)
    if found is None:
        result = train(workspace, data, run, 100_000, TRIAL)
        shutil.rmtree(result.folder)
        rate = result.steps / TRIAL
        found = results.add({**key, "by": "rate", **kind}, updates_per_second=rate)
    speed: float = found["updates_per_second"]
    return speed


def shown(run: Run) -> str:
    """Return the loss of a run, and its settings."""
    layers, channels = run["shape"]
    words = [f"{run['best']:.3f}: {layers} layers of {channels}", f"{run['lr']:g}"]
    words += ["Muon" if run.get("optimizer") == "muon" else "AdamW"]
    return ", ".join(words + ([f"{run['passes']} passes"] if "passes" in run else []))


def table(results: list[Run]) -> list[str]:
    """Return docs/guide/dial.md's table: for each text the dial, the best by hand, and how many."""
    lines = []
    for dial in (run for run in results if run["by"] == "dial"):
        same = {"text": dial["text"], "seconds": dial["seconds"], "by": "hand"}
        hand = [run for run in results if same.items() <= run.items()]
        best = min(hand, key=lambda run: run["best"])
        lines.append(
            f"| {dial['text']} | {dial['seconds']} s | {shown(dial)}, after "
            f"{dial['seconds_taken']} s | {shown(best)} | {len(hand)} |"
        )
    return lines


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path, nargs="?")
    parser.add_argument("text", type=Path, nargs="?", help="without it, the table is printed")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--only", choices=("dial", "rates"), help="what needs a quiet machine")
    arguments = parser.parse_args()
    results = Results()
    if arguments.text is None:
        print("\n".join(table(results.all)))
        return
    data = dataset(arguments.workspace, arguments.text)
    key = {"text": arguments.text.stem, "seconds": arguments.seconds}
    planned = runs(data.text_bytes)
    if arguments.only != "dial":
        for run in planned:
            measure(arguments.workspace, data, key, run, results)
    if arguments.only != "rates" and results.find(**key, by="dial") is None:
        done = by_dial(arguments.workspace, data, arguments.seconds)
        results.add({**key, "by": "dial", "tokens": data.train.tokens}, **done)
    if arguments.only is not None:
        return
    for run in planned:
        if results.find(**key, by="hand", **run) is not None:
            continue
        most = int(arguments.seconds * measure(arguments.workspace, data, key, run, results))
        passes = run.get("passes")
        steps = most if passes is None else min(passes * data.train.tokens // UPDATE, most)
        result = train(arguments.workspace, data, run, max(steps, 10))
        results.add({**key, "by": "hand", **run}, **outcome(result))


if __name__ == "__main__":
    main()
