"""Time a step of GPT-2 124M against PyTorch for several numbers of threads, in alternating pairs.

``python tools/threads.py`` prints a table and keeps every pair in docs/measured/threads.json, by
CPU. One process of PyTorch serves all rows; it is stopped while the engine works. ``--seconds``
ends the measurement early: rows come in the order of the table, and each has its pairs or is left
out. ``--print`` makes the tables from what is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from llmc.check.bench import Work
from llmc.check.timing import Timing, TorchProcess, comparison, in_pairs
from llmc.engine.build import ensure_native
from llmc.engine.machine import cpu_name
from llmc.preset import load_preset

KEPT = Path(__file__).resolve().parents[1] / "docs" / "measured" / "threads.json"
SHAPES = ((4, 64), (1, 1024))

Row = dict[str, Any]


def measure(work: Work, isa: str, binary: Path, torch: TorchProcess, pairs: int) -> Row:
    """Time both sides in turn and return the row."""
    argv = [*work.engine_argv(binary, "bench"), "--warmup", "1"]
    if isa:
        argv = ["env", f"LLMC_ISA={isa}", *argv]
    request = work.torch_request("steps")
    timed = list(in_pairs(lambda: Timing.of(argv), lambda: torch.time(request), pairs))
    ours = [event for pair, _ in timed for event in pair.of_kind("kernel")]
    kernels: dict[str, list[float]] = {}
    for event in ours:
        kernels.setdefault(event["name"], []).append(event["seconds"])
    steps = sum(len(pair.seconds) for pair, _ in timed)
    return {
        "B": work.B,
        "T": work.T,
        "threads": work.threads,
        "dtype": work.dtype,
        "isa": timed[0][0].start["isa"],
        **comparison(timed),
        "flops": sum(work.step_flops().values()),
        "peak": statistics.median(
            event["flops"] for pair, _ in timed for event in pair.of_kind("peak")
        ),
        "memory": max(pair.memory for pair, _ in timed),
        "kernels_ms": {name: sum(found) / steps * 1e3 for name, found in kernels.items()},
    }


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| step | threads | llmc | table | PyTorch | ratio | least to most |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda row: (row["dtype"], row["T"], row["threads"], row["isa"])):
        lines.append(
            f"| B={row['B']} T={row['T']} {row['dtype']} | {row['threads']} | "
            f"{row['ours_ms'] / 1e3:.3f} s | {row['isa']} | {row['theirs_ms'] / 1e3:.3f} s | "
            f"**{row['ratio']:.2f}** | {row['ratio_min']:.2f} to {row['ratio_max']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="1,2,4,8,16", help="numbers of threads")
    parser.add_argument("--dtypes", default="bf16,fp32", help="types; fp32:ISA takes a table")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side in a pair")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after so long")
    parser.add_argument("--engine", type=Path, help="llmc-native; default: built if it is missing")
    parser.add_argument("--keep", type=Path, default=KEPT, help="where results are kept")
    parser.add_argument("--print", action="store_true", help="measure nothing")
    args = parser.parse_args()
    kept: dict[str, list[Row]] = json.loads(args.keep.read_text()) if args.keep.is_file() else {}
    begin = time.monotonic()
    if not args.print:
        binary = args.engine or ensure_native()
        model = load_preset("gpt2-124m").model
        rows = kept.setdefault(f"{cpu_name()}, {os.cpu_count()} CPUs", [])
        with TorchProcess() as torch:
            for threads in map(int, args.threads.split(",")):
                for B, T in SHAPES:
                    for word in args.dtypes.split(","):
                        if time.monotonic() - begin > args.seconds:
                            print(f"left out: {B=} {T=} {threads=} {word}", file=sys.stderr)
                            continue
                        dtype, _, isa = word.partition(":")
                        work = Work(model, B, T, threads, args.steps, dtype)
                        row = measure(work, isa, binary, torch, args.pairs)
                        same = ("B", "T", "threads", "dtype", "isa")
                        rows[:] = [r for r in rows if any(r[key] != row[key] for key in same)]
                        rows.append(row)
                        print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
                        args.keep.write_text(json.dumps(kept, indent=1) + "\n")
    for cpu, rows in kept.items():
        print(f"{cpu}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
