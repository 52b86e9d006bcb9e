"""How much sooner a second turn starts: ``python tools/second_turn_bench.py``.

A random GPT-2 124M reads a prompt of 900 tokens, writes 60, and reads all of it again with 20 new
ones. The time to the first token is taken of both turns, pair by pair, each pair with another
conversation; and of a second turn that comes after a pause, in which the engine reads its answer
again. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llmc.config import SampleConfig
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator, generate_argv
from llmc.engine.protocol import Request
from llmc.sample.text import Sample

PROMPT, ANSWER, MORE, CONTEXT, V = 900, 60, 20, 1024, 50257


def ids(length: int, seed: int) -> list[int]:
    """Return tokens that differ from those of another seed."""
    return [(7919 * i + 104_729 * seed + 1) % V for i in range(length)]


def turn(generator: Generator, prompt: list[int], tokens: int) -> tuple[float, list[int]]:
    """Return the seconds to the first token, and all tokens."""
    began, first, answer = time.monotonic(), 0.0, []
    request = Request(prompt, SampleConfig(tokens=tokens, temperature=0))
    for sampled in Sample(generator, None, request):
        first = first or time.monotonic() - began
        answer.append(sampled.token)
    return first, answer


def pairs(model: Path, dtype: str, threads: int, count: int, pause: float) -> dict[str, Any]:
    """Return the medians of both turns' seconds to the first token, and of their ratios."""
    argv = generate_argv(ensure_native(), model, slots=2, dtype=dtype, threads=threads)
    times: dict[str, list[float]] = {"first": [], "second": [], "ratio": []}
    with Generator(argv) as generator:
        for pair in range(count + 1):
            prompt = ids(PROMPT, pair)
            first, answer = turn(generator, prompt, ANSWER)
            time.sleep(pause)
            second, _ = turn(generator, prompt + answer + ids(MORE, pair + 1000), 2)
            if pair > 0:  # the one before warms up
                for name, value in zip(times, (first, second, first / second), strict=True):
                    times[name].append(value)
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def main() -> None:
    """Measure, print a line for each case, then the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a checkpoint of GPT-2's shape")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or Path(folder) / "random.bin"
        if args.model is None:
            words = ["--quiet", "export-weights", "random:gpt2-124m", "--out", str(model)]
            subprocess.run([sys.executable, "-m", "llmc", *words], check=True)
        found = {}
        for dtype in args.dtypes:
            for name, pause in (("at once", 0.0), ("after a pause", 6.0)):
                told = pairs(model, dtype, args.threads, args.pairs, pause)
                found[f"{dtype}, {name}"] = told
                print(f"{dtype}, {name}: {told}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
