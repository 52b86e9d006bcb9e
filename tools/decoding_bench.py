"""Decode with llmc and with llama.cpp, in turn: ``python tools/decoding_bench.py``.

Both read the same random GPT-2 124M, exported by llmc: a prompt, then greedily one token after the
other. Each side runs in processes of its own, which alternate; who begins changes from pair to
pair, and ratios are taken pair by pair. Needs ``pip install llama-cpp-python`` (it compiles
llama.cpp; ``CMAKE_ARGS=-DGGML_NATIVE=ON`` for this CPU). The last line is the result as JSON.
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

GGUF = {"fp32": "fp32", "bf16": "bf16", "int8": "q8_0"}

Rates = dict[str, float]  # tokens a second: "prompt" and "decode"


def exported(folder: Path, dtypes: list[str]) -> None:
    """Write the model as the engine's checkpoint, and as GGUF in each type."""
    base = [sys.executable, "-m", "llmc", "--quiet", "export-weights"]
    model = folder / "random.bin"
    if not model.is_file():
        subprocess.run([*base, "random:gpt2-124m", "--out", model], check=True)
    for dtype in dtypes:
        path = folder / f"random-{GGUF[dtype]}.gguf"
        flags = ["--to", "gguf", "--dtype", GGUF[dtype], "--tokenizer", "byte", "--out", path]
        if not path.is_file():
            subprocess.run([*base, model, *flags], check=True)


def prompt_of(length: int, first: int = 1) -> list[int]:
    """Return as many different tokens."""
    return [(7919 * i + first) % 50257 for i in range(length)]


def rates(prompt: int, prompt_s: float, tokens: int, decode_s: float) -> Rates:
    """Return both speeds: the prompt's last token brings the first new one, the rest decode."""
    return {"prompt": prompt / prompt_s, "decode": (tokens - 1) / decode_s}


def ours(folder: Path, dtype: str, threads: int, prompt: int, tokens: int) -> Rates:
    """Time the engine."""
    from llmc.engine.build import ensure_native

    binary = ensure_native()
    flags = {"slots": 1, "positions": prompt + tokens, "threads": threads, "dtype": dtype}
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    # Two prompts: the engine would not read the same one again.
    lines = [
        f"request {name} tokens {tokens} temperature 0 eot -1 "
        f"prompt {','.join(map(str, prompt_of(prompt, first)))}"
        for name, first in (("a", 2), ("b", 1))
    ]
    done = subprocess.run(
        [binary, "generate", "--model", folder / "random.bin", *words],
        input="".join(f"{line}\n" for line in lines),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    end = [event for event in events if event["event"] == "end"][1]  # the first one warmed up
    return rates(prompt, end["prompt_ms"] / 1e3, tokens, (end["ms"] - end["prompt_ms"]) / 1e3)


def theirs(folder: Path, dtype: str, threads: int, prompt: int, tokens: int) -> Rates:
    """Time llama.cpp in this process."""
    from llama_cpp import Llama

    path = str(folder / f"random-{GGUF[dtype]}.gguf")
    llama: Any = Llama(
        path,
        n_ctx=prompt + tokens,
        n_batch=max(prompt, 32),
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    for _ in range(2):  # the first one warms up
        llama.reset()
        started = time.perf_counter()
        llama.eval(prompt_of(prompt))
        token = llama.sample(temp=0)
        first = time.perf_counter()
        for _ in range(tokens - 1):
            llama.eval([token])
            token = llama.sample(temp=0)
        ended = time.perf_counter()
    return rates(prompt, first - started, tokens, ended - first)


def compared(pairs: list[tuple[Rates, Rates]]) -> dict[str, Rates]:
    """Return the medians of both sides, and of the ratios pair by pair with their spread."""
    result = {}
    for what in ("prompt", "decode"):
        ratios = [a[what] / b[what] for a, b in pairs]
        result[what] = {
            "llmc": statistics.median(a[what] for a, _ in pairs),
            "llama_cpp": statistics.median(b[what] for _, b in pairs),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return result


def main() -> None:
    """Alternate the two, print a table, then the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", choices=list(GGUF), default=list(GGUF))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to write")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the models are kept; else temporary")
    parser.add_argument("--one", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.one:
        one = ours if o.one == "ours" else theirs
        print(json.dumps(one(o.folder, o.dtypes[0], o.threads, o.prompt, o.tokens)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = o.folder or Path(scratch)
        exported(folder, o.dtypes)
        results: dict[str, Any] = {}
        for dtype in o.dtypes:
            sizes = {"threads": o.threads, "prompt": o.prompt, "tokens": o.tokens, "folder": folder}
            words = [str(w) for key, value in sizes.items() for w in (f"--{key}", value)]
            pairs = []
            for pair in range(o.pairs):
                sides: dict[str, Rates] = {}
                for side in ("ours", "theirs") if pair % 2 == 0 else ("theirs", "ours"):
                    argv = [sys.executable, __file__, "--one", side, "--dtypes", dtype, *words]
                    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
                    sides[side] = json.loads(done.stdout.splitlines()[-1])
                pairs.append((sides["ours"], sides["theirs"]))
            results[dtype] = compared(pairs)
    print("| | llmc | llama.cpp | ratio | least to most |\n| --- | ---: | ---: | ---: | ---: |")
    for dtype, rows in results.items():
        for what, r in rows.items():
            print(
                f"| {what} {dtype}, {GGUF[dtype]} | {r['llmc']:.0f} tok/s | "
                f"{r['llama_cpp']:.0f} tok/s | **{r['ratio']:.2f}** | "
                f"{r['ratio_min']:.2f} to {r['ratio_max']:.2f} |"
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
