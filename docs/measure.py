"""Measure what docs/performance.md says: ``python docs/measure.py`` runs and prints it all.

The results are kept in docs/measured.json, by command; ``--print`` makes the tables from it. With
words, only the commands that contain one of them run again: ``python docs/measure.py bf16``.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "measured.json"
SHORT, LONG = "--batch-size 4 --seq-len 64", "--batch-size 1 --seq-len 1024"
SHAPES = {SHORT: "B=4 T=64", LONG: "B=1 T=1024"}
STEPS = {SHORT: "--steps 4", LONG: "--steps 2"}
RIVALS = {
    "fp32, eager": "--dtype fp32 --against torch",
    "fp32, torch.compile": "--dtype fp32 --against torch-compile",
    "bf16, autocast": "--dtype bf16 --against torch",
}
# Where a CPU has no bf16 instructions, a step of autocast takes a minute and more.
ONCE = "--dtype bf16 --against torch"
PAIRS = {"fp32, eager": 7, "fp32, torch.compile": 7, "bf16, autocast": 1}

Result = dict[str, Any]


def step_command(shape: str, rival: str) -> str:
    """Return the command of one row of the comparison."""
    steps = "--steps 1" if RIVALS[rival] == ONCE else STEPS[shape]
    return f"llmc bench {shape} --threads 2 {steps} {RIVALS[rival]} --pairs {PAIRS[rival]}"


def kernels_command(shape: str, dtype: str = "fp32") -> str:
    """Return the command that times each kernel alone, and attention against PyTorch's."""
    return f"llmc bench kernels {shape} --threads 2 --dtype {dtype} --steps 5 --against torch"


def threads_command(shape: str, threads: int) -> str:
    """Return the command of one point of the scaling curve."""
    return f"llmc bench {shape} --threads {threads} {STEPS[shape]}"


def commands() -> list[str]:
    """Return every command, in the order of the page."""
    steps = [step_command(shape, rival) for shape in SHAPES for rival in RIVALS]
    kernels = [kernels_command(shape) for shape in SHAPES]
    return [*steps, *kernels, *(threads_command(SHORT, threads) for threads in (1, 2))]


def measure(command: str) -> Result:
    """Run a command with ``--json``."""
    words = shlex.split(command)
    argv = [sys.executable, "-m", "llmc", "--json", *words[1:]]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def seconds(ms: float) -> str:
    """Return a time as the page shows it."""
    return f"{ms / 1e3:.2f} s" if ms >= 1e3 else f"{ms:.3g} ms"


def steps_table(results: dict[str, Result]) -> list[str]:
    """Return the table of whole steps."""
    lines = [
        "| step | llmc | PyTorch | ratio | least to most | of peak | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for shape, name in SHAPES.items():
        for rival in RIVALS:
            r = results.get(step_command(shape, rival))
            if r is None:
                continue
            a = r["against"]
            lines.append(
                f"| {name} {rival} | {seconds(a['ours_ms'])} | {seconds(a['theirs_ms'])} | "
                f"**{a['ratio']:.2f}** | {a['ratio_min']:.2f} to {a['ratio_max']:.2f} | "
                f"{r['share_of_peak']:.0%} | {r['memory_bytes'] / 1e9:.2f} of "
                f"{a['memory_bytes'] / 1e9:.2f} GB, {a['memory_ratio']:.2f} |"
            )
    return lines


def kernels_table(results: dict[str, Result], shape: str) -> list[str]:
    """Return the table of kernels alone, best of each beside its median."""
    r = results[kernels_command(shape)]
    lines = [
        f"| kernel, {SHAPES[shape]} | M×N×K | median | GF/s | of peak | GB/s |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in r["kernels"].items():
        size = f"{row['M']}×{row['N']}×{row['K']}" if row.get("M") else ""
        rate, share, memory = (
            row.get(key) for key in ("flops_per_second", "share_of_peak", "bytes_per_second")
        )
        lines.append(
            f"| {name} | {size} | {seconds(row['ms'])} | {f'{rate / 1e9:.0f}' if rate else ''} | "
            f"{f'{share:.0%}' if share else ''} | {f'{memory / 1e9:.0f}' if memory else ''} |"
        )
    return lines


def attention_table(results: dict[str, Result]) -> list[str]:
    """Return attention, forward and backward, against scaled_dot_product_attention."""
    lines = [
        "| attention | llmc | PyTorch | ratio | least to most |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for shape, name in SHAPES.items():
        a = results[kernels_command(shape)]["against"]
        lines.append(
            f"| {name} | {seconds(a['ours_ms'])} | {seconds(a['theirs_ms'])} | "
            f"**{a['ratio']:.2f}** | {a['ratio_min']:.2f} to {a['ratio_max']:.2f} |"
        )
    return lines


def threads_table(results: dict[str, Result]) -> list[str]:
    """Return the scaling curve."""
    lines = ["| threads | step | tokens/s | of peak |", "| --- | ---: | ---: | ---: |"]
    for threads in (1, 2):
        r = results[threads_command(SHORT, threads)]
        lines.append(
            f"| {threads} | {seconds(r['step_ms'])} | {r['tokens_per_second']:.0f} | "
            f"{r['share_of_peak']:.0%} |"
        )
    return lines


def tables(results: dict[str, Result]) -> list[list[str]]:
    """Return every table of the page, as lines of Markdown."""
    return [
        steps_table(results),
        attention_table(results),
        *(kernels_table(results, shape) for shape in SHAPES),
        threads_table(results),
    ]


def main() -> None:
    """Measure, keep, print."""
    words = sys.argv[1:]
    results: dict[str, Result] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for command in commands() if "--print" not in words else []:
        if words and not any(word in command for word in words):
            continue
        print(command, file=sys.stderr)
        results[command] = measure(command)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print("\n\n".join("\n".join(lines) for lines in tables(results)))


if __name__ == "__main__":
    main()
