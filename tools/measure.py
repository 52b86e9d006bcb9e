"""Measure what docs/measured/performance.md says: ``python tools/measure.py`` runs it all.

The results are kept in docs/measured/measured.json, by command; ``--print`` makes the tables from
it. With words, only the commands that contain one of them run again: ``python tools/measure.py
bf16``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "measured" / "measured.json"
SHORT, LONG = "--batch-size 4 --seq-len 64", "--batch-size 1 --seq-len 1024"
SHAPES = {SHORT: "B=4 T=64", LONG: "B=1 T=1024"}
STEPS = {SHORT: "--steps 4", LONG: "--steps 2"}
RIVALS = {
    "fp32, eager": "--dtype fp32 --against torch",
    "fp32, torch.compile": "--dtype fp32 --against torch-compile",
    "bf16, autocast": "--dtype bf16 --against torch",
}
DTYPES = ("fp32", "bf16")
WEIGHTS, TEXTS = ("fp32", "bf16", "int8"), (1, 8, 64)  # of decoding
LAYERS, HEAD_ROWS = 12, 256  # of 124M; rows of logits that one product makes

Result = dict[str, Any]


def step_command(shape: str, rival: str) -> str:
    """Return the command of one row of the comparison."""
    return f"llmc bench {shape} --threads 2 {STEPS[shape]} {RIVALS[rival]} --pairs 7"


def kernels_command(shape: str, dtype: str) -> str:
    """Return the command that times each kernel alone, and attention against PyTorch's."""
    return f"llmc bench kernels {shape} --threads 2 --dtype {dtype} --steps 5 --against torch"


def threads_command(shape: str, threads: int) -> str:
    """Return the command of one point of the scaling curve."""
    return f"llmc bench {shape} --threads {threads} {STEPS[shape]}"


def decode_command(dtype: str, texts: int) -> str:
    """Return the command that times the products of a token, or of one of each of some texts."""
    return f"llmc bench decode --threads 2 --dtype {dtype} --batch-size {texts} --steps 20"


def commands() -> list[str]:
    """Return every command, in the order of the page."""
    steps = [step_command(shape, rival) for shape in SHAPES for rival in RIVALS]
    kernels = [kernels_command(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    threads = [threads_command(SHORT, count) for count in thread_counts(os.cpu_count() or 1)]
    decodes = [decode_command(dtype, texts) for dtype in WEIGHTS for texts in TEXTS]
    return [*steps, *kernels, *threads, *decodes]


def thread_counts(cores: int) -> list[int]:
    """Return the points of the scaling curve: powers of two up to the cores."""
    return [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= cores]


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


def compared_cells(a: Result) -> str:
    """Return a comparison with PyTorch as cells: both times, their ratio and its bounds."""
    return (
        f"{seconds(a['ours_ms'])} | {seconds(a['theirs_ms'])} | **{a['ratio']:.2f}** | "
        f"{a['ratio_min']:.2f} to {a['ratio_max']:.2f}"
    )


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
                f"| {name} {rival} | {compared_cells(a)} | {r['share_of_peak']:.0%} | "
                f"{r['memory_bytes'] / 1e9:.2f} of {a['memory_bytes'] / 1e9:.2f} GB, "
                f"{a['memory_ratio']:.2f} |"
            )
    return lines


def kernels_table(results: dict[str, Result], shape: str) -> list[str]:
    """Return the table of kernels alone, both types beside each other."""
    rows = {dtype: results[kernels_command(shape, dtype)]["kernels"] for dtype in DTYPES}
    lines = [
        f"| kernel, {SHAPES[shape]} | M×N×K | fp32 | GF/s | of peak | bf16 | GF/s | of peak |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, first in rows["fp32"].items():
        size = f"{first['M']}×{first['N']}×{first['K']}" if first.get("M") else ""
        cells = [cell for dtype in DTYPES for cell in kernel_cells(rows[dtype][name])]
        lines.append(f"| {name} | {size} | {' | '.join(cells)} |")
    lines.append(
        f"| **all products** | | {' | '.join(products_cells(rows[d], shape) for d in DTYPES)} |"
    )
    return lines


def kernel_cells(row: Result) -> list[str]:
    """Return a kernel's time, speed and share of the peak, as far as it has them."""
    rate, share = row.get("flops_per_second"), row.get("share_of_peak")
    speed = f"{rate / 1e9:.0f}" if rate else ""
    return [seconds(row["ms"]), speed, f"{share:.0%}" if share else ""]


def products_together(rows: dict[str, Result], shape: str) -> tuple[float, float]:
    """Return what all products of a step reach: GF/s, and the share of the peak."""
    _, B, _, T = shape.split()
    chunks = max(1, int(B) * int(T) // HEAD_ROWS)
    flops = ms = ms_at_peak = 0.0
    for name, row in rows.items():
        if row.get("M"):
            calls = chunks if name.startswith("head") else LAYERS
            flops += calls * 2 * row["M"] * row["N"] * row["K"]
            ms += calls * row["ms"]
            ms_at_peak += calls * row["ms"] * row["share_of_peak"]
    return flops / ms / 1e6, ms_at_peak / ms


def products_cells(rows: Result, shape: str) -> str:
    """Return the same as cells of a table."""
    rate, share = products_together(rows, shape)
    return f"| {rate:.0f} | **{share:.0%}**"


def attention_table(results: dict[str, Result]) -> list[str]:
    """Return attention, forward and backward, against scaled_dot_product_attention."""
    lines = [
        "| attention | llmc | PyTorch | ratio | least to most |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for shape, name in SHAPES.items():
        for dtype in DTYPES:
            a = results[kernels_command(shape, dtype)]["against"]
            lines.append(f"| {name} {dtype} | {compared_cells(a)} |")
    return lines


def threads_table(results: dict[str, Result]) -> list[str]:
    """Return the scaling curve."""
    lines = ["| threads | step | tokens/s | of peak |", "| --- | ---: | ---: | ---: |"]
    for threads in thread_counts(64):
        r = results.get(threads_command(SHORT, threads))
        if r is None:
            continue
        lines.append(
            f"| {threads} | {seconds(r['step_ms'])} | {r['tokens_per_second']:.0f} | "
            f"{r['share_of_peak']:.0%} |"
        )
    return lines


def decode_table(results: dict[str, Result]) -> list[str]:
    """Return how fast a token's products are, and beside what the memory could do."""
    lines = [
        "| weights | texts at once | tokens/s | GB/s | reading alone, GB/s | share |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dtype in WEIGHTS:
        for texts in TEXTS:
            r = results[decode_command(dtype, texts)]
            lines.append(
                f"| {dtype} | {texts} | {r['tokens_per_second']:.0f} | "
                f"{r['bytes_per_second'] / 1e9:.1f} | {r['read_bytes_per_second'] / 1e9:.1f} | "
                f"{r['share_of_reading']:.0%} |"
            )
    return lines


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and what was.

    Attributes:
        name: the row's.
        goal: what was to be reached, at least, or with ``most`` at most.
        farther: what would be better still.
        found: what was measured; of several the worst counts.
        unit: how a number is shown: "" or "%".
        most: smaller is better.
    """

    name: str
    goal: float
    farther: float
    found: list[float]
    unit: str = ""
    most: bool = False

    def reaches(self, bound: float) -> bool:
        """Say whether the worst of what was measured, as the page shows it, is no worse."""
        shown = [round(number, 2) for number in self.found]
        return max(shown) <= bound if self.most else min(shown) >= bound

    def shown(self, number: float) -> str:
        """Return a number as the page shows it."""
        return f"{number:.0%}" if self.unit == "%" else f"{number:.2f}"

    def cells(self) -> str:
        """Return the row."""
        least, greatest = self.shown(min(self.found)), self.shown(max(self.found))
        here = least if least == greatest else f"{least} to {greatest}"
        verdict = "missed" if not self.reaches(self.goal) else ""
        beyond = "reached" if self.reaches(self.farther) else "not reached"
        goal = self.shown(self.goal)
        return f"| {self.name} | {goal} | {here} {verdict}| {self.shown(self.farther)} | {beyond} |"


def goals(results: dict[str, Result]) -> list[Goal]:
    """Return what was set before there was an engine, with what was measured."""

    def ratio(shape: str, rival: str) -> list[float]:
        return [results[step_command(shape, rival)]["against"]["ratio"]]

    def share(shape: str, dtype: str) -> list[float]:
        rows = results[kernels_command(shape, dtype)]["kernels"]
        return [products_together(rows, shape)[1]]

    eager, compiled, autocast = RIVALS
    steps = [step_command(shape, rival) for shape in SHAPES for rival in RIVALS]
    memory = [results[step]["against"]["memory_ratio"] for step in steps]
    kernels = [kernels_command(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    attention = [results[command]["against"]["ratio"] for command in kernels]
    reading = [results[decode_command(dtype, 1)]["share_of_reading"] for dtype in WEIGHTS]
    return [
        Goal(f"B=4 T=64 {eager}", 1.6, 1.9, ratio(SHORT, eager)),
        Goal(f"B=4 T=64 {autocast}", 1.6, 2.0, ratio(SHORT, autocast)),
        Goal(f"B=1 T=1024 {eager}", 1.6, 1.9, ratio(LONG, eager)),
        Goal(f"B=1 T=1024 {compiled}", 1.35, 1.55, ratio(LONG, compiled)),
        Goal(f"B=1 T=1024 {autocast}", 1.6, 2.0, ratio(LONG, autocast)),
        Goal("products, fp32, 256 rows", 0.85, 0.93, share(SHORT, "fp32"), "%"),
        Goal("products, fp32, 1024 rows", 0.90, 0.96, share(LONG, "fp32"), "%"),
        Goal("products, bf16, 256 rows", 0.75, 0.88, share(SHORT, "bf16"), "%"),
        Goal("products, bf16, 1024 rows", 0.82, 0.92, share(LONG, "bf16"), "%"),
        Goal("attention against scaled_dot_product_attention", 1.5, 2.5, attention),
        Goal("memory against PyTorch", 0.76, 0.6, memory, most=True),
        Goal("decoding, share of the read bandwidth", 0.75, 0.95, reading, "%"),
    ]


def goals_table(results: dict[str, Result]) -> list[str]:
    """Return the goals beside what was measured."""
    head = ["| | goal | here | farther | |", "| --- | ---: | ---: | ---: | --- |"]
    return [*head, *(goal.cells() for goal in goals(results))]


def tables(results: dict[str, Result]) -> list[list[str]]:
    """Return every table of the page, as lines of Markdown."""
    return [
        goals_table(results),
        steps_table(results),
        attention_table(results),
        *(kernels_table(results, shape) for shape in SHAPES),
        threads_table(results),
        decode_table(results),
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
