"""Compiles the steps of docs/engine/kernels.md, checks each against NumPy, then times them.

python docs/engine/gemm/run.py            # the table of the page
python docs/engine/gemm/run.py --tiles    # step 6 with tiles of other shapes
python docs/engine/gemm/run.py --engine   # step 9 and the engine, in turn
python docs/engine/gemm/run.py --check    # no timing: every step on ragged sizes
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy checks; it must not run beside what is timed
import numpy as np

HERE = Path(__file__).parent
BUILD = Path("build", "gemm")
FLAGS = ["-std=c11", "-O3", "-mcpu=native", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")  # where there are such; else it means nothing

SHAPES = ((256, 768, 768), (256, 3072, 768), (256, 768, 3072), (1024, 3072, 768))  # M, N, K
RAGGED = ((1, 1, 1), (2, 3, 5), (7, 17, 9), (13, 50, 385), (65, 241, 31), (961, 49, 400))
# The engine's product of each shape, with B and T: attproj and fcproj add a residual, fc computes
# GELU and its slope.
OPERATIONS = (("attproj", 4, 64), ("fc", 4, 64), ("fcproj", 4, 64), ("fc", 1, 1024))
TILES = ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (5, 2), (6, 2), (7, 2), (8, 2), (4, 3), (4, 4))

Array = np.ndarray[Any, np.dtype[np.float32]]
Function = Callable[[Array, Array, Array], None]
Clock = Callable[[], float]
Work = Callable[[], object]
Rates = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Step:
    """A row of the table: a file, the function in it, and what that computes."""

    name: str
    file: str
    function: str = "gemm"

    @property
    def turned(self) -> bool:
        """Whether the right factor is a weight, (N, K)."""
        return self.function.startswith("linear")

    @property
    def clock(self) -> Clock:
        """Time on the wall with several threads; with one, that for which it had the processor."""
        return time.perf_counter if self.file == "9_threads.c" else time.thread_time


STEPS = (
    Step("1 three loops", "1_loops.c"),
    Step("2 another order", "2_order.c"),
    Step("3 a tile, in memory", "3_tile.c"),
    Step("4 a tile, in registers", "4_unrolled.c"),
    Step("5 blocks", "5_blocks.c"),
    Step("6 packing", "6_packing.c"),
    Step("6 packing, weight (N, K)", "6_packing.c", "linear"),
    Step("7 packing by shuffles, weight (N, K)", "7_shuffles.c", "linear"),
    Step("8 GELU, in a second pass", "8_gelu.c", "linear_then_gelu"),
    Step("8 GELU, in the tile", "8_gelu.c", "linear_gelu"),
    Step("9 threads", "9_threads.c", "linear_gelu"),
)


def compiled(file: str, name: str, *defines: str) -> ctypes.CDLL:
    """Compile one file with zig, and load it."""
    BUILD.mkdir(parents=True, exist_ok=True)
    library = BUILD.resolve() / f"{name}.so"
    zig = [sys.executable, "-m", "ziglang", "cc"]
    subprocess.run([*zig, *FLAGS, *defines, str(HERE / file), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def function(library: ctypes.CDLL, name: str) -> Function:
    """Return a C function (out, left, right, M, N, K) that takes arrays."""
    call = library[name]
    call.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t] * 3
    call.restype = None

    def run(out: Array, left: Array, right: Array) -> None:
        M, N = out.shape
        call(out.ctypes.data, left.ctypes.data, right.ctypes.data, M, N, left.shape[1])

    return run


def aligned(*shape: int) -> Array:
    """Return an array that starts at a cache line, as the engine's do."""
    memory = np.zeros(math.prod(shape) + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + math.prod(shape)].reshape(shape)


def operands(M: int, N: int, K: int) -> tuple[Array, Array, Array, Array]:
    """Return out, A, B and B as a weight, for one shape."""
    random = np.random.default_rng(M + N + K)
    out, a, b, weight = aligned(M, N), aligned(M, K), aligned(K, N), aligned(N, K)
    a[:] = random.standard_normal((M, K))
    b[:] = random.standard_normal((K, N))
    weight[:] = b.T
    return out, a, b, weight


def check(step: Step, run: Function, shape: tuple[int, int, int]) -> None:
    """Hold a step against NumPy in float64.

    Raises:
        SystemExit: it computes something else.
    """
    out, a, b, weight = operands(*shape)
    right = a.astype(np.float64) @ b
    if step.function.endswith("gelu"):
        right = 0.5 * right * (1 + np.tanh(math.sqrt(2 / math.pi) * (right + 0.044715 * right**3)))
    out[:] = np.nan
    run(out, a, weight if step.turned else b)
    error = np.linalg.norm(out - right) / np.linalg.norm(right)
    if not error < 1e-5:
        sys.exit(f"error: step {step.name} is wrong by {error:.1e} for M, N, K = {shape}")


def seconds(work: Work, clock: Clock) -> float:
    """Return how long one call takes, as the mean over a twentieth of a second."""
    calls, start = 0, clock()
    while (passed := clock() - start) < 0.05:
        work()
        calls += 1
    return passed / calls


def peak(rounds: int = 20) -> float:
    """Return what one core can do at most, in GF/s."""
    library, out = compiled("peak.c", "peak"), aligned(16)
    library.peak.argtypes, library.peak.restype = [ctypes.c_void_p, ctypes.c_float], ctypes.c_double

    def rate() -> float:
        start = time.thread_time()
        operations: float = library.peak(out.ctypes.data, 0.5)
        return operations / (time.thread_time() - start) / 1e9

    return max(rate() for _ in range(rounds))


def measure(runs: Mapping[str, tuple[Clock, Work]], flops: int, rounds: int) -> Rates:
    """Return, by name, the median GF/s of interleaved rounds, and half the quartiles' distance."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(rounds):
        for name, (clock, work) in runs.items():
            # What takes half a second is measured three times only.
            if done < 3 or flops / rates[name][0] < 0.5e9:
                rates[name].append(flops / seconds(work, clock) / 1e9)
    low, middle, high = zip(*(statistics.quantiles(r, n=4) for r in rates.values()), strict=True)
    spreads = [(above - below) / 2 for below, above in zip(low, high, strict=True)]
    return dict(zip(runs, zip(middle, spreads, strict=True), strict=True))


def load(threads: int) -> dict[Step, Function]:
    """Compile all steps; the one with threads is told how many."""
    libraries = {file: compiled(file, Path(file).stem) for file in {step.file for step in STEPS}}
    ctypes.c_int.in_dll(libraries["9_threads.c"], "threads").value = threads
    return {step: function(libraries[step.file], step.function) for step in STEPS}


def table(threads: int, rounds: int) -> None:
    """Print the page's table."""
    functions, top = load(threads), peak()
    columns = []
    for shape in SHAPES:
        out, a, b, weight = operands(*shape)
        runs = {}
        for step, run in functions.items():
            check(step, run, shape)
            right = weight if step.turned else b
            runs[step.name] = step.clock, functools.partial(run, out, a, right)
        columns.append(measure(runs, 2 * math.prod(shape), rounds))
    print(f"{platform.machine()}, peak of one core {top:.1f} GF/s, {threads} threads in step 9\n")
    print("| step |", " | ".join("×".join(map(str, shape)) for shape in SHAPES), "| of peak |")
    print("| --- |" + " ---: |" * (len(SHAPES) + 1))
    for step in STEPS:
        cells = [column[step.name] for column in columns]
        cores = threads if step.file == "9_threads.c" else 1
        share = statistics.mean(rate for rate, _ in cells) / top / cores
        shown = " | ".join(f"{rate:.1f} ± {spread:.1f}" for rate, spread in cells)
        print(f"| {step.name} | {shown} | {share:.0%} |")


def engine_rates(operation: str, B: int, T: int, threads: int) -> list[float]:
    """Return the GF/s of a product of the engine, on each layer of GPT-2 124M."""
    from llmc.cli.context import Context
    from llmc.cli.ui import Ui
    from llmc.engine.build import ensure_native
    from llmc.paths import Workspace

    binary = ensure_native(Context(Workspace(Path.cwd()), Ui(quiet=True)))
    words = f"bench-kernels --batch-size {B} --seq-len {T} --threads {threads} --steps 1 --warmup 1"
    argv = [str(binary), *words.split(), "--only", f"{operation}_forward"]
    said = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout
    events = [json.loads(line) for line in said.splitlines()]
    (shape,) = (event for event in events if event["event"] == "kernel")
    flops = 2 * shape["M"] * shape["N"] * shape["K"]
    return [flops / event["seconds"] / 1e9 for event in events if event["event"] == "call"]


def engine(threads: int, rounds: int) -> None:
    """Print what step 9 and the engine reach on all threads, measured in turn."""
    (step,) = (step for step in STEPS if step.file == "9_threads.c")
    run, top = load(threads)[step], threads * peak()
    cells: dict[str, list[str]] = {step.name: [], "10 the engine": []}
    shares: dict[str, list[float]] = {name: [] for name in cells}
    for shape, (operation, B, T) in zip(SHAPES, OPERATIONS, strict=True):
        out, a, _, weight = operands(*shape)
        work = functools.partial(run, out, a, weight)
        rates: dict[str, list[float]] = {name: [] for name in cells}
        for _ in range(rounds):
            rates[step.name].append(2 * math.prod(shape) / seconds(work, step.clock) / 1e9)
            rates["10 the engine"].append(statistics.median(engine_rates(operation, B, T, threads)))
        for name, found in rates.items():
            low, middle, high = statistics.quantiles(found, n=4)
            cells[name].append(f"{middle:.0f} ± {(high - low) / 2:.0f}")
            shares[name].append(middle / top)
    print(f"peak of {threads} threads: {top:.0f} GF/s\n")
    print("| threads |", " | ".join("×".join(map(str, shape)) for shape in SHAPES), "| of peak |")
    print("| --- |" + " ---: |" * (len(SHAPES) + 1))
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} | {statistics.mean(shares[name]):.0%} |")


def tiles(rounds: int) -> None:
    """Print what tiles of other shapes make of packed panels."""
    M, N, K = 840, 768, 384  # every tile divides M and N
    out, a, b, _ = operands(M, N, K)
    runs = {}
    for rows, vectors in TILES:
        defines = (f"-DMR={rows}", f"-DNRV={vectors}")
        library = compiled("6_packing.c", f"tile_{rows}x{vectors}", *defines)
        work = functools.partial(function(library, "gemm"), out, a, b)
        runs[f"{rows} × {vectors}"] = time.thread_time, work
    top = peak()
    print("| tile | GF/s | of peak |\n| --- | ---: | ---: |")
    for name, (rate, spread) in measure(runs, 2 * M * N * K, rounds).items():
        print(f"| {name} | {rate:.1f} ± {spread:.1f} | {rate / top:.0%} |")


def main() -> None:
    """Check, or print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tiles", action="store_true", help="step 6 with tiles of other shapes")
    parser.add_argument("--engine", action="store_true", help="step 9 and the engine, in turn")
    parser.add_argument("--check", action="store_true", help="every step on ragged sizes, untimed")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 64))
    parser.add_argument("--rounds", type=int, default=11)
    words = parser.parse_args()
    if words.check:
        for step, run in load(words.threads).items():
            for shape in RAGGED:
                check(step, run, shape)
            print(f"{step.name}: right on {len(RAGGED)} ragged shapes")
    elif words.tiles:
        tiles(words.rounds)
    elif words.engine:
        engine(words.threads, words.rounds)
    else:
        table(words.threads, words.rounds)


if __name__ == "__main__":
    main()
