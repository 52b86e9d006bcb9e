"""How soon a text is learnt: ``llmc train --for`` against nanoGPT's settings, by the clock.

.venv/bin/python tools/against_nanogpt.py build/nanogpt shakespeare.txt

PyTorch's side has the settings that nanoGPT's README gives for a CPU and Shakespeare: 4 layers of
128, no dropout, T = 64, B = 12, 2,000 steps at 1e-3 with a cosine, characters as tokens. Its model
is llmc/check/torch_model.py, with the biases that nanoGPT leaves out by default. Each of llmc's
commands counts as a whole, PyTorch's training without loading. The loss is in bits per byte, after
the end, on all of the last tenth of the text, which trains neither. Processes alternate. Writes
docs/measured/against_nanogpt.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llmc.engine.machine import cpu_name
from llmc.model import ModelConfig

RESULT = Path(__file__).resolve().parents[1] / "docs" / "measured" / "against_nanogpt.json"
B, T, STEPS, WARMUP, LR, LEAST = 12, 64, 2000, 100, 1e-3, 1e-4
EVERY, BATCHES = 250, 20  # nanoGPT's validations: of so many random batches, of both splits
VALIDATES = 0.1

Result = dict[str, Any]


def train_in_torch(folder: Path, threads: int) -> None:
    """Train with nanoGPT's settings; print the bits per byte and the seconds of training."""
    import numpy as np
    import torch

    from llmc.check.torch_model import GPT2
    from llmc.config import TrainConfig
    from llmc.weights.random import random_tensors

    began = time.perf_counter()
    torch.set_num_threads(threads)
    train, val = ((folder / f"{name}.txt").read_bytes() for name in ("train", "val"))
    known = sorted({*train, *val})
    ids = np.zeros(256, np.int64)
    ids[known] = range(len(known))
    splits = [torch.from_numpy(ids[np.frombuffer(text, np.uint8)]) for text in (train, val)]
    shape = ModelConfig(4, 4, 128, T, len(known))
    model = GPT2(shape).load(dict(random_tensors(shape, 1337)))
    settings = TrainConfig(lr=LR, beta2=0.99, weight_decay=0.1)
    optimizer = model.adamw(settings, fused=True)
    torch.manual_seed(1337)

    def batch(split: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.randint(len(split) - T, (B,))
        rows = torch.stack([split[i : i + T + 1] for i in at])
        return rows[:, :-1], rows[:, 1:]

    for step in range(STEPS):
        if step % EVERY == 0:
            with torch.no_grad():
                for split in splits:
                    for _ in range(BATCHES):
                        model(*batch(split))
        x = min((step - WARMUP) / (STEPS - WARMUP), 1)
        falling = LEAST + (LR - LEAST) * (1 + math.cos(math.pi * x)) / 2
        for group in optimizer.param_groups:
            group["lr"] = LR * (step + 1) / (WARMUP + 1) if step < WARMUP else falling
        optimizer.zero_grad()
        loss = model(*batch(splits[0]))[1]
        assert loss is not None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
    seconds = time.perf_counter() - began
    held = splits[1]
    windows = held[: (len(held) - 1) // T * T]
    targets = held[1 : len(windows) + 1]
    with torch.no_grad():
        losses = [
            model(x.view(-1, T), y.view(-1, T))[1].item() * len(x)
            for x, y in zip(windows.split(64 * T), targets.split(64 * T), strict=True)
        ]
    bits = sum(losses) / len(windows) / math.log(2)
    print(json.dumps({"bits_per_byte": bits, "training": seconds}))


def split(text: Path, folder: Path) -> None:
    """Write train.txt and val.txt, the last tenth."""
    data = text.read_bytes()
    at = int(len(data) * (1 - VALIDATES))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_bytes(data[:at])
    (folder / "val.txt").write_bytes(data[at:])


def theirs(folder: Path, threads: int) -> Result:
    """Train with nanoGPT's settings in a process of its own."""
    argv = [sys.executable, __file__, "--torch", str(threads), str(folder), "-"]
    found = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    result: Result = json.loads(found)
    return {"seconds": result["training"], "bits_per_byte": result["bits_per_byte"]}


def ours(workspace: Path, folder: Path, budget: int, threads: int) -> Result:
    """Prepare the text and train on it for a time; validate on all of its last tenth."""
    import llmc

    shutil.rmtree(workspace, ignore_errors=True)
    command = [sys.executable, "-m", "llmc", "--workspace", str(workspace)]
    began = time.perf_counter()
    for words in (
        ["prepare", str(folder)],
        ["train", "--for", f"{budget}s", "--threads", str(threads), "--run", "ours"],
    ):
        subprocess.run([*command, *words], check=True, capture_output=True)
    seconds = time.perf_counter() - began
    bits = llmc.evaluate(workspace / "runs" / "ours", workspace=workspace).score.bits_per_byte
    assert bits is not None
    return {"seconds": seconds, "bits_per_byte": bits.value, "for": budget}


def main() -> None:
    """Alternate, keep, say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--budget", type=int, default=15, help="seconds of --for (15)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch:
        train_in_torch(options.workspace, options.torch)
        return
    folder = options.workspace / "text"
    split(options.text, folder)
    pairs = []
    for _ in range(options.pairs):
        mine = ours(options.workspace / "ours", folder, options.budget, options.threads)
        pairs.append({"llmc": mine, "nanoGPT": theirs(folder, options.threads)})
        print(pairs[-1], flush=True)
    ratios = [pair["nanoGPT"]["seconds"] / pair["llmc"]["seconds"] for pair in pairs]
    result = {"cpu": cpu_name(), "threads": options.threads, "pairs": pairs, "ratios": ratios}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{statistics.median(ratios):.1f} times sooner ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
