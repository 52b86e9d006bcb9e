"""Kill a run at random moments until it ends: ``make torture``.

Each life of the run is ended by SIGKILL, now and then by Ctrl-C, at a random moment, then resumed
with another number of threads. What it ends with must be what an undisturbed run ends with: the
weights, AdamW's means, the metrics.

``--mode`` chooses other ends than these: :mod:`tests.programs.ends`.

``python -m tests.programs.torture --proof`` (``make proof``) does it to one long run of the demo on
Python's standard library, and asks besides that the memory of the undisturbed one never grows:
Linux alone tells it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from llmc.preset import load_preset
from llmc.weights.checkpoint import read_header
from llmc.weights.state import MOMENTS_AT
from tests.helpers.engine import Flags, Native, build, environment, succeeded
from tests.helpers.events import without_times
from tests.helpers.models import RAGGED, training_files

FILES = ("model.bin", "best.bin")
MOST_RUNS = 20  # a killer who has not come often enough by the end of so many comes too late


@dataclass(frozen=True)
class Ending:
    """What is left of a run: its weights, the best ones, AdamW's means, what it told but times."""

    files: list[bytes]
    means: bytes
    metrics: list[dict[str, object]]


def ending(out: Path) -> Ending:
    """Return what the run in ``out`` ended with."""
    metrics = without_times((out / "metrics.jsonl").read_text())
    newest = max((out / "checkpoints").iterdir())
    means = (newest / "state.bin").read_bytes()[MOMENTS_AT:]
    return Ending([(out / name).read_bytes() for name in FILES], means, metrics)


def settings(folder: Path, steps: int) -> Flags:
    """Make a small model and its data; return what both runs have in common."""
    return {
        **training_files(folder, RAGGED),
        "batch_size": 3,
        "seq_len": 19,
        "steps": steps,
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 2,
        "weight_decay": 0.1,
        "val_every": 3,
        "sample_every": 5,
        "sample_tokens": 8,
        "save_every": 2,
        "keep": 2,
        "patience": 1000,
        "skip_loss_z": 1.2,
        "skip_grad_z": 1.2,
    }


@dataclass(frozen=True)
class Death:
    """When a life ends: after so many steps, or before the first; and so many seconds; and how."""

    steps: int
    seconds: float
    how: signal.Signals


def life(native: Native, flags: Flags, death: Death | None) -> bool:
    """Let a run live until its death, if it is to die; return whether it had ended by itself.

    Raises:
        AssertionError: it failed.
    """
    words = native.argv("train", resume=1, **flags)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        if death is not None:
            left = death.steps
            while left and (line := process.stdout.readline()):
                left -= b"train loss" in line
            time.sleep(death.seconds)
            process.send_signal(death.how)
        said = process.communicate()[1].decode()
    assert process.returncode in (0, 130, -signal.SIGKILL, -signal.SIGINT), (words, said)
    return process.returncode == 0


def until_it_ends(
    native: Native,
    flags: Flags,
    out: Path,
    chance: random.Random,
    *,
    most_steps: int,
    most_deaths: int | None = None,
) -> Counter[signal.Signals]:
    """Kill a run, each time within so many steps, until it ends; return how often, by what.

    After ``most_deaths`` it is let live.

    Raises:
        AssertionError: it failed, or will not end.
    """
    deaths: Counter[signal.Signals] = Counter()
    for _ in range(50 * flags["steps"]):
        death = Death(
            steps=chance.randint(0, most_steps),
            seconds=chance.random() * chance.choice((0, 0.002, 0.02)),
            how=signal.SIGINT if chance.random() < 0.2 else signal.SIGKILL,
        )
        spared = deaths.total() == most_deaths
        threads = chance.choice((1, 2, 3))
        if life(native, {**flags, "threads": threads, "out": out}, None if spared else death):
            return deaths
        deaths[death.how] += 1
    raise AssertionError("it was killed too often to come to its end")


def torture(native: Native, folder: Path, kills: int, seed: int = 1) -> int:
    """Kill a run until it ends, and runs after it, ``kills`` times in all; return how often it was.

    On a fast machine a run is at its end before the killer has come often enough: then another one
    is killed as well.

    Raises:
        AssertionError: one failed, or did not end like an undisturbed one.
    """
    flags = settings(folder, max(4 * kills, 160))  # enough to fill the windows of the outliers
    succeeded(native("train", out=folder / "calm", threads=2, **flags))
    calm = ending(folder / "calm")
    assert any(line.get("event") == "skipped" for line in calm.metrics)
    chance = random.Random(seed)
    deaths = 0
    for attempt in range(MOST_RUNS):
        out = folder / f"torn-{attempt}"
        deaths += until_it_ends(
            native, flags, out, chance, most_steps=6, most_deaths=kills - deaths
        ).total()
        assert ending(out) == calm
        left = sorted(path.name for path in (out / "checkpoints").iterdir())
        assert f"{flags['steps']:08}" in left, left
        assert len(left) == 2 or f"{read_header(out / 'best.bin').step:08}" == left[0], left
        assert len(left) <= 3, left
        if deaths == kills:
            break
    return deaths


def watched(native: Native, flags: Flags, out: Path) -> list[int]:
    """Let a run go undisturbed; return the bytes of its own memory after each of its events.

    These are the pages that no file stands behind: the arena, stacks, the heap, what was written of
    the program's data. ``smaps_rollup`` counts them one by one, while ``RssAnon`` is a sum that the
    kernel keeps per core and may be off. Pages of the program's text that are read from its file
    for the first time are no growth: they are given back to whoever needs them.

    Raises:
        AssertionError: it failed.
    """
    sizes = []
    words = native.argv("train", events="json", out=out, **flags)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if "event" not in event and event["step"] < flags["steps"]:  # later it may be gone
                smaps = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                (kilobytes,) = re.findall(r"^Anonymous: +(\d+) kB$", smaps, re.M)
                sizes.append(int(kilobytes) << 10)
    assert process.returncode == 0
    return sizes[1:]  # the first was taken at the validation before the first step


def stdlib_settings(folder: Path, steps: int) -> Flags:
    """Prepare the demo in ``folder``; return what both runs have in common."""
    argv = [sys.executable, "-m", "llmc", "--workspace", str(folder), "--json", "prepare", "stdlib"]
    prepared = json.loads(subprocess.check_output(argv, stderr=subprocess.DEVNULL))
    recipe = asdict(load_preset("python-stdlib").train)
    flags = {
        name: int(value) if isinstance(value, bool) else value for name, value in recipe.items()
    }
    return {
        **flags,
        "model": prepared["model"],
        "data": Path(prepared["folder"]) / "train.bin",
        "val_data": Path(prepared["folder"]) / "val.bin",
        "steps": steps,
        "batch_size": 8,
        "optimizer": "adamw",
        "lr": 2e-3,
        "schedule": "cosine",
        "warmup": steps // 20,
        "grad_clip": 1,
        "val_every": 50,
        "val_batches": 4,
        "sample_every": 75,
        "save_every": 10,
        "keep": 2,
        "skip_loss_z": 4,
    }


def proof(native: Native, folder: Path, steps: int, kills: int, seed: int = 1) -> None:
    """Tear a run of the demo about ``kills`` times, watch an undisturbed one, say what came out.

    Raises:
        AssertionError: it failed, did not end like the undisturbed one, or that one grew.
    """
    flags = stdlib_settings(folder, steps)
    sizes = watched(native, {**flags, "threads": 2}, folder / "calm")
    page = os.sysconf("SC_PAGE_SIZE")
    print(
        f"undisturbed: {steps:,} steps; own memory {sizes[0]:,} bytes after the first, "
        f"{min(sizes):,} to {max(sizes):,} in {len(sizes):,} samples until the last: "
        f"{(max(sizes) - sizes[0]) // page} pages more",
        flush=True,
    )
    assert max(sizes) == sizes[0]
    most = 2 * steps // kills
    deaths = until_it_ends(native, flags, folder / "torn", random.Random(seed), most_steps=most)
    torn, calm = ending(folder / "torn"), ending(folder / "calm")
    assert torn == calm
    skipped = sum(line.get("event") == "skipped" for line in calm.metrics)
    val = [line["val_loss"] for line in calm.metrics if "val_loss" in line]
    print(
        f"killed by SIGKILL {deaths[signal.SIGKILL]} times, by Ctrl-C {deaths[signal.SIGINT]} "
        "times, and resumed each time with 1, 2 or 3 threads: the same bytes of model.bin and "
        f"best.bin, the same {len(torn.means):,} bytes of AdamW's means, the same "
        f"{len(torn.metrics):,} lines of metrics; {skipped} updates skipped, validation loss "
        f"{val[0]:.4f} to {val[-1]:.4f}"
    )


def main() -> None:
    """Torture, and say how often the run was disturbed."""
    from tests.programs.ends import MODES, run_mode

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kills", type=int, nargs="?", help="how many (1000; of a proof about 30)")
    parser.add_argument("--proof", action="store_true", help="of a long run of the demo")
    parser.add_argument("--steps", type=int, default=2000, help="of a proof, 2000")
    parser.add_argument("--mode", choices=("kills", *MODES), default="kills", help="what is done")
    parser.add_argument("--count", type=int, help="how often; as kills")
    parser.add_argument("--seed", type=int, default=1, help="of what happens (1)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial (0)")
    options = parser.parse_args()
    count = options.count or options.kills or (30 if options.proof else 1000)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        if "LLMC_TEST_ENGINES" in os.environ:  # the engines of the tests
            cache.mkdir()
            (cache / "native").symlink_to(os.environ["LLMC_TEST_ENGINES"])
        native = build(cache)
        if options.proof:
            proof(native, Path(name), options.steps, count, options.seed)
        elif options.mode == "kills":
            deaths = torture(native, Path(name), count, options.seed)
            print(f"killed {deaths} times; each run ended as if it had not been")
            assert deaths == count, f"{MOST_RUNS} runs were at their end before"
        else:
            happened = run_mode(
                options.mode, native, cache, count=count, seed=options.seed, first=options.first
            )
            for what, times in sorted(happened.items()):
                print(f"{times:6} {what}")
            print(f"{options.mode}: {count} times; each run ended as if nothing had happened")
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
