"""How soon a model is good: llmc against PyTorch on one recipe, from scratch, by the clock.

make setup-dev && .venv/bin/llmc --workspace build/demo prepare stdlib
.venv/bin/python tools/time_to_loss.py build/demo
.venv/bin/python tools/time_to_loss.py build/demo --compiled     (torch.compile too)
.venv/bin/python tools/time_to_loss.py build/demo --muon         (the recipe of llmc train --for)
.venv/bin/python tools/time_to_loss.py build/demo --bf16         (PyTorch in fp32 and by autocast)

Both sides begin with the same weights, see the same windows in the same order, at the same learning
rates, validate on the same tokens at the same steps. Processes alternate. The clock begins before
the first validation, when model and data are loaded, and runs over training and validations alike.
Writes docs/measured/time_to_loss.json and draws docs/measured/time_to_loss.svg from it (``--muon``
and ``--bf16`` add their names to the files'); ``--draw`` only draws.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.config import TrainConfig
from llmc.engine.machine import cpu_name
from llmc.model import ModelConfig
from llmc.setting import flags_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

MEASURED = Path(__file__).resolve().parents[1] / "docs" / "measured"

MODEL = ModelConfig(layers=6, heads=6, channels=192, context=64, vocab_size=2048)
TRAIN = TrainConfig(
    steps=2000,
    batch_size=8,
    seq_len=64,
    lr=1e-3,
    schedule="cosine",
    warmup=100,
    lr_final=0.1,
    beta2=0.99,
    weight_decay=0.1,
    grad_clip=1.0,
    val_every=100,
    val_batches=40,
    sample_every=0,
)
MUON_MODEL = ModelConfig(layers=3, heads=3, channels=96, context=64, vocab_size=2048)
MUON_TOKENS = 1_024_000
# The losses of the first steps, over which rounding has not grown yet.
AGREE = {"fp32": 1e-4, "bf16": 2e-2}
FIRST_STEPS = 20
SIDES = {
    "llmc": "llmc",
    "eager": "PyTorch",
    "autocast": "PyTorch, autocast to bf16",
    "compiled": "PyTorch, torch.compile",
}
COLOURS = {"llmc": "#0072B2", "eager": "#D55E00", "autocast": "#009E73", "compiled": "#CC79A7"}

Result = dict[str, Any]
Curve = list[tuple[float, float]]  # seconds, validation loss


# ---- PyTorch's side: a process of its own -------------------------------------------------------

MASK64 = (1 << 64) - 1


def mix64(x: int) -> int:
    """Return what ``mix64`` in native/base/util.c does."""
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def permute(index: int, n: int, seed: int) -> int:
    """Return what ``permute`` in native/files/dataloader.c does."""
    half = 1
    while half < 32 and 1 << (2 * half) < n:
        half += 1
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(6):
            mixed = mix64(mix64((seed + turn) & MASK64) ^ right) & mask
            left, right = right, left ^ mixed
        index = left << half | right
        if index < n:
            return index


def batches(tokens: NDArray[np.uint16], train: TrainConfig) -> Iterator[torch.Tensor]:
    """Yield (B, T + 1) ids, the windows that llmc's training sees, in its order."""
    import numpy as np
    import torch

    B, T = train.batch_size, train.seq_len
    windows = (len(tokens) - 1) // T
    visit = 0
    while True:
        rows = []
        for _ in range(B):
            epoch, window = divmod(visit, windows)
            seed = (mix64(train.seed) + epoch * 0x10001) & MASK64
            at = permute(window, windows, seed) * T
            rows.append(tokens[at : at + T + 1].astype(np.int64))
            visit += 1
        yield torch.from_numpy(np.stack(rows))


def learning_rate(train: TrainConfig, step: int) -> float:
    """Return the rate of cosine or wsd, as native/train/schedule.c has them."""
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    if train.schedule == "wsd":
        decay = round(train.decay * train.steps)
        return train.lr * (1 - math.sqrt(max(step - (train.steps - decay), 0) / decay))
    x = min((step - train.warmup) / (train.steps - train.warmup), 1)
    least = train.lr * train.lr_final
    return least + (train.lr - least) * (1 + math.cos(math.pi * x)) / 2


def train_in_torch(train: TrainConfig, files: dict[str, str], threads: int, compiled: bool) -> None:
    """Train the twin and print llmc's lines, with the seconds since the start."""
    import numpy as np
    import torch

    from llmc.check.torch_model import GPT2
    from llmc.check.torch_muon import Optimizer, beside
    from llmc.tokens.files import read_tokens
    from llmc.weights.checkpoint import read_checkpoint

    torch.set_num_threads(threads)
    header, tensors = read_checkpoint(Path(files["model"]))
    model = GPT2(header.config).load(tensors)
    run = torch.compile(model) if compiled else model
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=train.dtype == "bf16")
    optimizers: list[Optimizer] = [model.adamw(train, fused=True)]
    if train.optimizer == "muon":
        optimizers = beside(optimizers[0], model, train)
    data, val = (np.asarray(read_tokens(Path(files[name]))) for name in ("data", "val_data"))
    B, T = train.batch_size, train.seq_len
    order = batches(data, train)
    held_out = [
        torch.from_numpy(val[at * T : at * T + B * T + 1].astype(np.int64))
        for at in range(0, B * min(train.val_batches, (len(val) - 1) // (B * T)), B)
    ]
    began = time.perf_counter()

    def tell(**fields: float) -> None:
        print(json.dumps({**fields, "seconds": time.perf_counter() - began}), flush=True)

    def validate(step: int) -> None:
        with torch.no_grad(), autocast:
            losses = [run(x[:-1].view(B, T), x[1:].view(B, T))[1].item() for x in held_out]
        tell(step=step, val_loss=sum(losses) / len(losses))

    for step in range(train.steps):
        if step % train.val_every == 0:
            validate(step)
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = learning_rate(train, step)
        ids = next(order)
        model.zero_grad()
        with autocast:
            loss = run(ids[:, :-1], ids[:, 1:])[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip, foreach=True)
        for optimizer in optimizers:
            optimizer.step()
        tell(step=step, train_loss=loss.item())
    validate(train.steps)


# ---- both sides ---------------------------------------------------------------------------------


def recipe_of(*, muon: bool, dtype: str, steps: int | None) -> tuple[ModelConfig, TrainConfig]:
    """Return the model and the settings: AdamW's, or those of ``llmc train --for``."""
    from llmc.train.recipe import settings_for

    if not muon:
        return MODEL, replace(TRAIN, steps=steps or TRAIN.steps, dtype=dtype)
    chosen = settings_for(MUON_MODEL, MUON_TOKENS)
    update = chosen["total_batch_size"] or chosen["batch_size"] * chosen["seq_len"]
    rows = update // chosen["seq_len"]
    chosen |= {"batch_size": rows, "total_batch_size": 0, "sample_every": 0, "patience": 0}
    chosen |= {"val_tokens": 0, "val_batches": TRAIN.val_batches * TRAIN.batch_size // rows}
    return MUON_MODEL, TrainConfig(steps=steps or MUON_TOKENS // update, dtype=dtype, **chosen)


def prepared(model_shape: ModelConfig, workspace: Path, scratch: Path) -> dict[str, str]:
    """Return the token files of the demo, and the weights that both sides begin with."""
    from llmc.weights.checkpoint import write_checkpoint
    from llmc.weights.random import random_tensors

    model = scratch / "start.bin"
    write_checkpoint(model, model_shape, random_tensors(model_shape, 1))
    folder = workspace / "data" / "stdlib"
    files = {"model": model, "data": folder / "train.bin", "val_data": folder / "val.bin"}
    return {name: str(path) for name, path in files.items()}


def lines_of(argv: list[str]) -> list[dict[str, Any]]:
    """Run a side to its end; return its lines, each with the seconds of its arrival."""
    lines = []
    began = None
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            line = json.loads(text)
            now = time.perf_counter()
            if line.get("event") == "start":  # the model is loaded after it, in milliseconds
                began = now
            if "event" not in line:
                lines.append({"seconds": now - (began or now), **line})
    if process.returncode != 0:
        raise SystemExit(f"{argv[0]} failed with exit code {process.returncode}")
    return lines


def one_run(side: str, train: TrainConfig, files: dict[str, str], threads: int) -> Result:
    """Train on one side; return its validation curve and its first losses."""
    if side == "llmc":
        from llmc.engine.build import ensure_native

        binary = ensure_native()
        words = [f"--{name.replace('_', '-')}={path}" for name, path in files.items()]
        argv = [str(binary), "train", *(part for word in words for part in word.split("=", 1))]
        argv += ["--events", "json", "--threads", str(threads), *flags_of(train)]
    else:
        theirs = train if side == "autocast" else replace(train, dtype="fp32")
        request = {"train": asdict(theirs), "files": files, "threads": threads}
        request |= {"compiled": side == "compiled"}
        argv = [sys.executable, __file__, "--torch", json.dumps(request)]
    lines = lines_of(argv)
    return {
        "side": side,
        "first": [line["train_loss"] for line in lines if "train_loss" in line][:FIRST_STEPS],
        "val": [
            [line["seconds"], line["step"], line["val_loss"]]
            for line in lines
            if "val_loss" in line
        ],
    }


def reached(run: Result, target: float) -> float:
    """Return the seconds of the first validation at or below the target."""
    found = [seconds for seconds, _, loss in run["val"] if loss <= target]
    return found[0] if found else math.inf


def compare(
    workspace: Path,
    sides: list[str],
    model: ModelConfig,
    train: TrainConfig,
    *,
    pairs: int,
    threads: int,
) -> Result:
    """Alternate the sides; return every run, the target, and the ratios run by run.

    The target is the last validation's loss, rounded up to a hundredth, of the side that ends
    highest: all reach it.

    Raises:
        SystemExit: the sides do not train alike.
    """
    runs: dict[str, list[Result]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as scratch:
        files = prepared(model, workspace, Path(scratch))
        for pair in range(pairs):
            for side in sides if pair % 2 == 0 else sides[::-1]:
                runs[side].append(one_run(side, train, files, threads))
                seconds, _, loss = runs[side][-1]["val"][-1]
                print(f"{side}: validation loss {loss:.4f} after {seconds:.1f} s", file=sys.stderr)
    every = [run for side in sides for run in runs[side]]
    apart = max(
        abs(a - b) for run in every for a, b in zip(run["first"], every[0]["first"], strict=True)
    )
    if apart > AGREE[train.dtype]:
        raise SystemExit(
            f"the losses of the first steps are {apart:.1e} apart: not the same training"
        )
    target = math.ceil(100 * max(run["val"][-1][2] for run in every)) / 100
    result: Result = {
        "cpu": cpu_name(),
        "threads": threads,
        "model": asdict(model),
        "train": asdict(train),
        "target": target,
        "first_losses_apart": apart,
        "seconds": {side: [reached(run, target) for run in runs[side]] for side in sides},
        "runs": runs,
    }
    ours = result["seconds"]["llmc"]
    result["ratios"] = {
        side: [theirs / mine for theirs, mine in zip(result["seconds"][side], ours, strict=True)]
        for side in sides
        if side != "llmc"
    }
    return result


def summary(result: Result) -> str:
    """Return what came out, in sentences."""
    lines = [
        f"validation loss {result['target']:.2f}; the first {FIRST_STEPS} losses agree to "
        f"{result['first_losses_apart']:.0e}"
    ]
    for side, seconds in result["seconds"].items():
        middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
        lines.append(f"{SIDES[side]}: {middle:.1f} s ({least:.1f} to {most:.1f})")
    for side, ratios in result["ratios"].items():
        lines.append(
            f"llmc is there {statistics.median(ratios):.2f} times sooner than {SIDES[side]} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join(lines)


def draw(result: Result, picture: Path) -> None:
    """Draw every run's validation loss over seconds."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "llmc", "font.size": 11}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for side, runs in result["runs"].items():
            for index, run in enumerate(runs):
                seconds = [point[0] for point in run["val"]]
                losses = [point[2] for point in run["val"]]
                label = SIDES[side] if index == 0 else None
                axes.plot(seconds, losses, ".-", color=COLOURS[side], label=label, linewidth=1.6,
                          markersize=5, alpha=0.9)  # fmt: skip
            middle = statistics.median(result["seconds"][side])
            axes.plot([middle, middle], [0, result["target"]], ":", color=COLOURS[side])
            axes.annotate(f"{middle:.0f} s", (middle, result["target"]), (5, -14),
                          textcoords="offset points", color=COLOURS[side])  # fmt: skip
        axes.axhline(result["target"], color="#888888", linewidth=0.8, linestyle="--")
        losses = [
            point[2] for runs in result["runs"].values() for run in runs for point in run["val"]
        ]
        axes.set_ylim(min(losses) - 0.25, min(max(losses), 6.5))
        longest = max(run["val"][-1][0] for runs in result["runs"].values() for run in runs)
        axes.set_xlim(0, 1.08 * longest)
        axes.set_xlabel("seconds of training and validating")
        axes.set_ylabel("validation loss (nats per token)")
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        axes.set_title("The same training, step for step", loc="left", fontweight="bold")
        figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    """Compare, keep, draw, say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workspace", type=Path, nargs="?", help="where stdlib is prepared")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side (3)")
    parser.add_argument("--steps", type=int, help=f"of a run ({TRAIN.steps}; with --muon 1000)")
    parser.add_argument("--threads", type=int, default=2, help="of each side (2)")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    parser.add_argument("--muon", action="store_true", help="the recipe of llmc train --for")
    parser.add_argument(
        "--bf16", action="store_true", help="llmc in bf16; PyTorch in fp32 and by autocast"
    )
    parser.add_argument("--draw", action="store_true", help="draw what was measured, no more")
    parser.add_argument("--trial", action="store_true", help="keep nothing")
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch:
        request = json.loads(options.torch)
        train_in_torch(**{**request, "train": TrainConfig(**request["train"])})
        return
    words = ["time_to_loss", *["muon"] * options.muon, *["bf16"] * options.bf16]
    kept = MEASURED / f"{'_'.join(words)}.json"
    if options.draw:
        result = json.loads(kept.read_text())
    else:
        dtype = "bf16" if options.bf16 else "fp32"
        model, train = recipe_of(muon=options.muon, dtype=dtype, steps=options.steps)
        sides = ["llmc", "eager", *["autocast"] * options.bf16, *["compiled"] * options.compiled]
        result = compare(
            options.workspace,
            sides,
            model,
            train,
            pairs=options.pairs,
            threads=options.threads,
        )
    if not options.trial:
        kept.write_text(json.dumps(result, indent=None) + "\n")
        draw(result, kept.with_suffix(".svg"))
    print(summary(result))


if __name__ == "__main__":
    main()
