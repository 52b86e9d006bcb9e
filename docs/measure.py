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
    threads = [threads_command(SHORT, count) for count in (1, 2)]
    decodes = [decode_command(dtype, texts) for dtype in WEIGHTS for texts in TEXTS]
    return [*steps, *kernels, *threads, *decodes]


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
        f"| **all products** | | {' | '.join(products_cells(rows, shape, d) for d in DTYPES)} |"
    )
    return lines


def kernel_cells(row: Result) -> list[str]:
    """Return a kernel's time, speed and share of the peak, as far as it has them."""
    rate, share = row.get("flops_per_second"), row.get("share_of_peak")
    speed = f"{rate / 1e9:.0f}" if rate else ""
    return [seconds(row["ms"]), speed, f"{share:.0%}" if share else ""]


def products_cells(rows: dict[str, Result], shape: str, dtype: str) -> str:
    """Return what all products of a step reach together: their operations over their time."""
    _, B, _, T = shape.split()
    chunks = max(1, int(B) * int(T) // HEAD_ROWS)
    flops = ms = ms_at_peak = 0.0
    for name, row in rows[dtype].items():
        if row.get("M"):
            calls = chunks if name.startswith("head") else LAYERS
            flops += calls * 2 * row["M"] * row["N"] * row["K"]
            ms += calls * row["ms"]
            ms_at_peak += calls * row["ms"] * row["share_of_peak"]
    return f"| {flops / ms / 1e6:.0f} | **{ms_at_peak / ms:.0%}**"


def attention_table(results: dict[str, Result]) -> list[str]:
    """Return attention, forward and backward, against scaled_dot_product_attention."""
    lines = [
        "| attention | llmc | PyTorch | ratio | least to most |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for shape, name in SHAPES.items():
        for dtype in DTYPES:
            a = results[kernels_command(shape, dtype)]["against"]
            lines.append(
                f"| {name} {dtype} | {seconds(a['ours_ms'])} | {seconds(a['theirs_ms'])} | "
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


def tables(results: dict[str, Result]) -> list[list[str]]:
    """Return every table of the page, as lines of Markdown."""
    return [
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
