"""Kill a run at random moments until it ends: ``python tests/torture.py 1000`` (``make torture``).

Each life of the run is ended by SIGKILL, now and then by Ctrl-C, at a random moment, then resumed
with another number of threads. What it ends with must be what an undisturbed run ends with.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from engine import (
    RAGGED,
    Flags,
    Native,
    build,
    environment,
    random_tokens,
    save_model,
    save_tokens,
    succeeded,
    without_times,
)

FILES = ("model.bin", "best.bin")


@dataclass(frozen=True)
class Ending:
    """What is left of a run: its weights, the best ones, and what it told, without the times."""

    files: list[bytes]
    metrics: list[dict[str, object]]


def ending(out: Path) -> Ending:
    """Return what the run in ``out`` ended with."""
    metrics = without_times((out / "metrics.jsonl").read_text())
    return Ending([(out / name).read_bytes() for name in FILES], metrics)


def settings(folder: Path, steps: int) -> Flags:
    """Make a small model and its data; return what both runs have in common."""
    V = RAGGED.vocab_size
    return {
        "model": save_model(folder / "start.bin", RAGGED),
        "data": save_tokens(folder / "train.bin", random_tokens(1200, V), V),
        "val_data": save_tokens(folder / "val.bin", random_tokens(400, V, 4), V),
        "batch_size": 3,
        "seq_len": 19,
        "steps": steps,
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 5,
        "weight_decay": 0.1,
        "val_every": 3,
        "sample_every": 5,
        "sample_tokens": 8,
        "save_every": 2,
        "keep": 2,
        "patience": 1000,
        "skip_loss_z": 1.5,
        "skip_grad_z": 1.5,
    }


@dataclass(frozen=True)
class Death:
    """When a life ends: after so many steps, or before the first; and so many seconds; and how."""

    steps: int
    seconds: float
    how: signal.Signals


def life(native: Native, flags: Flags, death: Death) -> bool:
    """Let a run live until its death; return whether it had ended by itself.

    Raises:
        AssertionError: it failed.
    """
    words = native.argv("train", resume=1, **flags)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        left = death.steps
        while left and (line := process.stdout.readline()):
            left -= b"train loss" in line
        time.sleep(death.seconds)
        process.send_signal(death.how)
        said = process.communicate()[1].decode()
    assert process.returncode in (0, 130, -signal.SIGKILL, -signal.SIGINT), (words, said)
    return process.returncode == 0


def torture(native: Native, folder: Path, kills: int, seed: int = 1) -> int:
    """Kill a run about ``kills`` times until it ends; return how often it was.

    Raises:
        AssertionError: it failed, or did not end like an undisturbed one.
    """
    chance = random.Random(seed)
    flags = settings(folder, 4 * kills)  # enough to fill the windows of the outliers
    succeeded(native("train", out=folder / "calm", threads=2, **flags))
    lives = 0
    while lives < 50 * kills:
        death = Death(
            steps=chance.choice((0, 1, 2, 3, 4, 5, 6)),
            seconds=chance.random() * chance.choice((0, 0.002, 0.02)),
            how=signal.SIGINT if chance.random() < 0.2 else signal.SIGKILL,
        )
        flags["threads"] = chance.choice((1, 2, 3))
        if life(native, {**flags, "out": folder / "torn"}, death):
            break
        lives += 1
    torn, calm = ending(folder / "torn"), ending(folder / "calm")
    assert torn.metrics == calm.metrics
    assert torn.files == calm.files
    assert any(line.get("event") == "skipped" for line in calm.metrics)
    left = sorted(path.name for path in (folder / "torn" / "checkpoints").iterdir())
    assert len(left) == 2 and f"{flags['steps']:08}" in left, left
    return lives


def main() -> None:
    """Torture, and say how often the run was killed."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        native = build(Path(name) / "cache")
        print(f"killed {torture(native, Path(name), kills)} times; it ended as if it had not been")


if __name__ == "__main__":
    main()
