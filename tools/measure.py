"""Measure how fast the engine is on this CPU: ``python tools/measure.py``.

Results are kept in docs/measured/cpus/CPU.json, by command, and CPU.md is written from them. With
words, only the commands that contain one of them run: ``python tools/measure.py bf16``. The other
results of this CPU stay. ``--print`` writes all pages anew and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmc.engine.build import ensure_native
from llmc.engine.machine import cpu_generation, cpu_name, instruction_sets, memory

CPUS = Path(__file__).resolve().parents[1] / "docs" / "measured" / "cpus"
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
THREADS = (1, 2, 4, 8, 16, 32, 64)  # of the scaling curve, as far as the machine has cores
ASKED = "env LLMC_ISA=amxfp32 "  # a table that is not taken by itself
LAYERS, HEAD_ROWS = 12, 256  # of 124M; rows of logits that one product makes

Result = dict[str, Any]


def step_command(shape: str, rival: str) -> str:
    """Return the command of one row of the comparison."""
    return f"llmc bench {shape} --threads 2 {STEPS[shape]} {RIVALS[rival]} --pairs 7"


def kernels_command(shape: str, dtype: str) -> str:
    """Return the command that times each kernel alone, and attention against PyTorch's."""
    return f"llmc bench kernels {shape} --threads 2 --dtype {dtype} --steps 5 --against torch"


def threads_command(shape: str, dtype: str, threads: int) -> str:
    """Return the command of one point of the scaling curve."""
    work = f"{shape} --threads {threads} {STEPS[shape]} --dtype {dtype}"
    return f"llmc bench {work} --against torch --pairs 3"


def decode_command(dtype: str, texts: int) -> str:
    """Return the command that times the products of a token, or of one of each of some texts."""
    return f"llmc bench decode --threads 2 --dtype {dtype} --batch-size {texts} --steps 20"


def commands(cores: int, isas: list[str]) -> list[str]:
    """Return every command, in the order of the page."""
    steps = [step_command(shape, rival) for shape in SHAPES for rival in RIVALS]
    points = [(count, shape) for count in THREADS if count <= cores for shape in SHAPES]
    threads = [threads_command(s, dtype, count) for count, s in points for dtype in DTYPES]
    asked = [ASKED + threads_command(shape, "fp32", count) for count, shape in points]
    kernels = [kernels_command(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    decodes = [decode_command(dtype, texts) for dtype in WEIGHTS for texts in TEXTS]
    return [*steps, *threads, *(asked if "amxfp32" in isas else []), *kernels, *decodes]


def measure(command: str) -> Result:
    """Run a command with ``--json``."""
    program = shlex.join([sys.executable, "-m", "llmc", "--json"])
    argv = shlex.split(command.replace("llmc bench", f"{program} bench"))
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return {"measured": f"{datetime.now(UTC):%Y-%m-%d}", **result}


def this_machine() -> Result:
    """Return what the page says of the machine."""
    total = round(memory(ensure_native()).total / 1e9)
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "memory_gb": total}


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


def threads_table(results: dict[str, Result]) -> list[str]:
    """Return the scaling curve, with the instruction set that each row multiplied with."""
    lines = [
        "| step | threads | instruction set | llmc | PyTorch | ratio | least to most | of peak |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dtype, first in (("fp32", ""), ("fp32", ASKED), ("bf16", "")):
        for shape, name in SHAPES.items():
            for count in THREADS:
                r = results.get(first + threads_command(shape, dtype, count))
                if r is not None:
                    lines.append(
                        f"| {name} {dtype} | {count} | `{r['isa']}` | "
                        f"{compared_cells(r['against'])} | {r['share_of_peak']:.0%} |"
                    )
    return lines


def kernels_table(results: dict[str, Result], shape: str) -> list[str]:
    """Return the table of kernels alone, both types beside each other."""
    found = {dtype: results.get(kernels_command(shape, dtype)) for dtype in DTYPES}
    rows = {dtype: result["kernels"] for dtype, result in found.items() if result}
    names = dict.fromkeys(name for kernels in rows.values() for name in kernels)
    lines = [
        f"| kernel, {SHAPES[shape]} | M×N×K |"
        + "".join(f" {dtype} | GF/s | of peak |" for dtype in rows),
        "| --- | --- |" + " ---: | ---: | ---: |" * len(rows),
    ]
    for name in names:
        first = next(kernels[name] for kernels in rows.values() if name in kernels)
        size = f"{first['M']}×{first['N']}×{first['K']}" if first.get("M") else ""
        cells = [cell for kernels in rows.values() for cell in kernel_cells(kernels[name])]
        lines.append(f"| {name} | {size} | {' | '.join(cells)} |")
    together = " | ".join(products_cells(kernels, shape) for kernels in rows.values())
    lines.append(f"| **all products** | | {together} |")
    return lines if rows else []


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
            r = results.get(kernels_command(shape, dtype))
            if r is not None:
                lines.append(f"| {name} {dtype} | {compared_cells(r['against'])} |")
    return lines


def decode_table(results: dict[str, Result]) -> list[str]:
    """Return how fast a token's products are, and beside what the memory could do."""
    lines = [
        "| weights | texts at once | tokens/s | GB/s | reading alone, GB/s | share |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dtype in WEIGHTS:
        for texts in TEXTS:
            r = results.get(decode_command(dtype, texts))
            if r is None:
                continue
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
        found: what was measured; of several the worst counts. Empty: it has not been.
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
        reached = ["yes" if self.reaches(bound) else "no" for bound in (self.goal, self.farther)]
        goal, farther = self.shown(self.goal), self.shown(self.farther)
        return f"| {self.name} | {here} | {goal} | {reached[0]} | {farther} | {reached[1]} |"


# Where a result has them.
RATIO, MEMORY, READING = ("against", "ratio"), ("against", "memory_ratio"), "share_of_reading"

# At least so many times as fast as PyTorch, and what would be better still: of CPUs without matrix
# tiles, and of CPUs with them. The first are what a prototype had reached.
FASTER = {
    False: {
        (SHORT, "fp32, eager"): (1.6, 1.9),
        (SHORT, "bf16, autocast"): (1.6, 2.0),
        (LONG, "fp32, eager"): (1.6, 1.9),
        (LONG, "fp32, torch.compile"): (1.35, 1.55),
        (LONG, "bf16, autocast"): (1.6, 2.0),
    },
    True: {
        (SHORT, "fp32, eager"): (2.0, 2.5),
        (SHORT, "bf16, autocast"): (2.4, 4.0),
        (LONG, "fp32, eager"): (2.0, 2.5),
        (LONG, "bf16, autocast"): (2.0, 4.0),
    },
}
# The share of the peak of all products: of multipliers that are vectors.
OF_PEAK = {
    (SHORT, "fp32"): (0.85, 0.93),
    (LONG, "fp32"): (0.90, 0.96),
    (SHORT, "bf16"): (0.75, 0.88),
    (LONG, "bf16"): (0.82, 0.92),
}


def goals(results: dict[str, Result]) -> list[Goal]:
    """Return what was to be reached on a CPU like this, with what was measured."""

    def found(commands: list[str], *keys: str) -> list[Any]:
        values = [results[command] for command in commands if command in results]
        for key in keys:
            values = [value[key] for value in values]
        return values

    def of_peak(shape: str, dtype: str) -> list[float]:
        rows = found([kernels_command(shape, dtype)], "kernels")
        return [products_together(kernels, shape)[1] for kernels in rows]

    tiles = any(result["isa"].startswith("amx") for result in results.values())
    steps = [step_command(shape, rival) for shape in SHAPES for rival in RIVALS]
    kernels = [kernels_command(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    reading = [decode_command(dtype, 1) for dtype in WEIGHTS]
    rows = [
        *(
            Goal(f"{SHAPES[shape]} {rival}", *bounds, found([step_command(shape, rival)], *RATIO))
            for (shape, rival), bounds in FASTER[tiles].items()
        ),
        *(
            Goal(f"{SHAPES[shape]} bf16, autocast, 16 threads", goal, 4.0, found([command], *RATIO))
            for shape, goal in ((SHORT, 2.4), (LONG, 1.6))
            for command in [threads_command(shape, "bf16", 16)]
            if tiles
        ),
        *(
            Goal(f"products, {SHAPES[shape]} {dtype}", *bounds, of_peak(shape, dtype), "%")
            for (shape, dtype), bounds in OF_PEAK.items()
            if not (tiles and dtype == "bf16")
        ),
        Goal("attention against scaled_dot_product_attention", 1.5, 2.5, found(kernels, *RATIO)),
        Goal("memory against PyTorch", 0.76, 0.6, found(steps, *MEMORY), most=True),
        Goal("decoding, of the read bandwidth", 0.75, 0.95, found(reading, READING), "%"),
    ]
    return [row for row in rows if row.found]


def goals_table(results: dict[str, Result]) -> list[str]:
    """Return the goals beside what was measured."""
    head = [
        "| | here | goal | reached | farther | reached |",
        "| --- | ---: | ---: | --- | ---: | --- |",
    ]
    return [*head, *(goal.cells() for goal in goals(results))]


def examples(*commands: str) -> list[str]:
    """Return commands as a block that a reader can copy."""
    return ["```sh slow", *commands, "```"]


def page(kept: Result) -> str:
    """Return the page of a CPU."""
    results: dict[str, Result] = kept["results"]
    machine, days = kept["machine"], sorted({r["measured"] for r in results.values()})
    torch = sorted({f"PyTorch {r['against']['torch']}" for r in results.values() if "against" in r})
    parts = {
        "A step against PyTorch": [
            *steps_table(results),
            "",
            *examples(*(step_command(SHORT, rival) for rival in RIVALS)),
        ],
        "Goals": goals_table(results),
        "Threads": [*threads_table(results), "", *examples(threads_command(SHORT, "fp32", 1))],
        "Attention alone": attention_table(results),
        "Kernels alone": [
            *kernels_table(results, SHORT),
            "",
            *kernels_table(results, LONG),
            "",
            *examples(kernels_command(SHORT, "fp32"), kernels_command(LONG, "bf16")),
        ],
        "Decoding": [*decode_table(results), "", *examples(decode_command("int8", 8))],
    }
    lines = [
        f"# {machine['cpu']}",
        "",
        "This page is generated by `python tools/measure.py`. [Performance](../performance.md)",
        "says how each figure is measured, and what limits it.",
        "",
        f"{machine['cores']} cores of an {machine['cpu']}, {machine['memory_gb']} GB of memory, "
        f"{', '.join([*torch, 'measured on ' + ', '.join(days)])}.",
    ]
    for title, part in parts.items():
        tables = [line for line in part if line.startswith("| ")]
        if len(tables) > 2:  # more than a head
            lines += ["", f"## {title}", "", *part]
    return "\n".join(lines) + "\n"


def kept_in(file: Path) -> Result:
    """Return what is kept of a CPU."""
    kept: Result = json.loads(file.read_text(encoding="utf-8"))
    return kept


def keep(file: Path, kept: Result) -> None:
    """Write what is kept of a CPU, and its page."""
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(kept), encoding="utf-8")


def main() -> None:
    """Measure and keep, or write the pages anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only commands that contain one of them")
    parser.add_argument("--print", action="store_true", help="write the pages, measure nothing")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no command after so long")
    args, begin = parser.parse_args(), time.monotonic()
    if args.print:
        for file in sorted(CPUS.glob("*.json")):
            keep(file, kept_in(file))
        return
    machine = this_machine()
    name = cpu_generation() or machine["cpu"]
    file = CPUS / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json")
    kept = kept_in(file) if file.is_file() else {"results": {}}
    tables = instruction_sets(ensure_native())
    isas = [table["isa"] for table in tables if table.get("runnable")]
    for command in commands(machine["cores"], isas):
        if args.words and not any(word in command for word in args.words):
            continue
        if time.monotonic() - begin > args.seconds:
            print(f"left out: {command}", file=sys.stderr)
            continue
        print(command, file=sys.stderr)
        kept["machine"], kept["results"][command] = machine, measure(command)
        keep(file, kept)
    print(file.with_suffix(".md"))


if __name__ == "__main__":
    main()
