"""Measure what docs/guide/recipes.md says of each preset: ``python tools/recipes_table.py``.

Every preset is rehearsed by ``llmc train --dry-run`` on random tokens, beginning with random
weights: neither changes what a step takes. The larger GPT-2s are not: how fast they are is taken
from the smallest by the operations of a token, and their memory from the engine's plan. With words,
only the presets named so are measured again. The numbers are kept in docs/measured/recipes.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from llmc.engine.build import ensure_native
from llmc.engine.machine import cpu_name, default_threads
from llmc.model import flops_per_token
from llmc.preset import Preset, load_preset, preset_names
from llmc.setting import flags_of
from llmc.tokens.files import write_tokens
from llmc.units import megabytes
from llmc.weights.checkpoint import checkpoint_bytes, write_checkpoint
from llmc.weights.random import random_tensors

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "measured" / "recipes.json"
TOKENS = 200_000
BASIS = "gpt2-124m"
ESTIMATED = ("gpt2-355m", "gpt2-774m", "gpt2-1558m")  # larger than what a dry run should wait for

Result = dict[str, Any]


def tokens_of(preset: Preset) -> int:
    """Return the tokens that a preset trains on."""
    train = preset.train
    return train.steps * (train.total_batch_size or train.batch_size * train.seq_len)


def saved_model(preset: Preset, path: Path, *, whole: bool) -> Path:
    """Write a model of random weights, or only its header and a hole of its size."""
    tensors = random_tensors(preset.model, 1)
    if whole:
        write_checkpoint(path, preset.model, tensors, extension=False)
        return path
    header = np.zeros(256, "<i4")
    m = preset.model
    header[:8] = (20240326, 3, m.context, m.vocab_size, m.layers, m.heads, m.channels,
                  m.padded_vocab_size)  # fmt: skip
    path.write_bytes(header.tobytes())
    os.truncate(path, checkpoint_bytes(m, "fp32"))
    return path


def measured(name: str) -> Result:
    """Return the memory and the speed of a preset; no speed where it is only planned."""
    preset = load_preset(name)
    real = name not in ESTIMATED
    with tempfile.TemporaryDirectory() as folder:
        model = saved_model(preset, Path(folder) / "model.bin", whole=real)
        ids = np.random.default_rng(1).integers(0, preset.model.vocab_size, TOKENS)
        data = Path(folder) / "tokens.bin"
        write_tokens(data, [ids], preset.model.vocab_size)
        argv = [
            sys.executable,
            "-m",
            "llmc",
            "--workspace",
            folder,
            "--json",
            "--quiet",
            "train",
            "--dry-run",
        ]
        argv += ["--config", name, "--model", str(model), "--data", str(data)]
        argv += ["--val-data", str(data)]
        if real:
            done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
            told: Result = json.loads(done.stdout.splitlines()[-1])
            return {key: told[key] for key in ("parameters", "memory_bytes", "tokens_per_second",
                                               "seconds", "isa", "threads")}  # fmt: skip
        binary = ensure_native()
        flags = [str(binary), "train", "--dry-run", "1", "--events", "json", "--model", str(model)]
        flags += ["--data", str(data), "--val-data", str(data), "--threads", str(default_threads())]
        # Refused, for want of memory, after it has told how much it would take.
        done = subprocess.run(
            [*flags, *flags_of(preset.train)],
            env={**os.environ, "LLMC_MEMORY": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            text=True,
        )
        plan = json.loads(done.stdout.splitlines()[0])
        return {"parameters": plan["parameters"], "memory_bytes": plan["memory"]}


def with_estimates(results: dict[str, Result]) -> dict[str, Result]:
    """Return the results, the speed of the larger GPT-2s from the smallest's."""
    base = load_preset(BASIS)

    def flops(preset: Preset) -> float:
        return flops_per_token(preset.model, preset.train.seq_len)

    for name in ESTIMATED:
        if BASIS in results and name in results:
            preset, result = load_preset(name), results[name]
            rate = results[BASIS]["tokens_per_second"] * flops(base) / flops(preset)
            result |= {"tokens_per_second": rate, "seconds": tokens_of(preset) / rate}
    return results


def duration(seconds: float) -> str:
    """Return how long a run is: ``40 minutes``, ``13 hours``, ``4 years``."""
    units = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))
    unit, each = next(pair for pair in units if seconds >= 2 * pair[1] or pair[0] == "minutes")
    count = seconds / each
    return f"{count:,.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"


def table(results: dict[str, Result]) -> str:
    """Return the table of the page."""
    lines = [
        "| preset | parameters | memory | tokens/s | tokens | the whole run |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in preset_names():
        if name not in results:
            continue
        r, preset = results[name], load_preset(name)
        about = "about " if name in ESTIMATED else ""
        tokens, whole = tokens_of(preset), duration(r["seconds"])
        lines.append(
            f"| `{name}` | {r['parameters'] / 1e6:,.1f}M | {megabytes(r['memory_bytes'])} | "
            f"{about}{r['tokens_per_second']:,.0f} | {tokens / 1e6:,.1f}M | {about}{whole} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, keep, print."""
    words = sys.argv[1:]
    results: dict[str, Result] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in preset_names() if "--print" not in words else []:
        if words and name not in words:
            continue
        print(name, file=sys.stderr)
        results[name] = {**measured(name), "cpu": cpu_name()}
        RESULTS.write_text(json.dumps(with_estimates(results), indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
