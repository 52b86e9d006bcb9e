"""What the compiler makes of the inner loops: a guard on speed that looks at no clock.

Every file of ``native/isa/`` is compiled to assembly with the product's own flags, for x86-64 and
for ARM wherever the tests run. The loop under every matrix product must keep its accumulators in
registers and touch no memory but its two panels; roots and exponentials must be vectors.

A new instruction set needs one row in ``TILES``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmc import toolchain
from llmc.paths import shipped_dir
from llmc.process import Finished, run_quietly

# (instruction set, machine) -> the instructions that multiply and add; the last one accumulates.
TILES = {
    ("generic", "x86_64"): ("mulps", "addps"),
    ("generic", "aarch64"): ("fmla",),
    ("avx2", "x86_64"): ("vfmadd231ps",),
    ("avx512", "x86_64"): ("vfmadd231ps",),
    ("neon", "aarch64"): ("fmla",),
}
EVERY_TABLE = pytest.mark.parametrize(("isa", "machine"), TILES)

NATIVE = shipped_dir("native")
COMMENT = {"x86_64": "#", "aarch64": "//"}
# How a register is written whose VL lanes are all computed on, by machine and VL.
WHOLE = {
    ("x86_64", 4): r"%xmm\d+",
    ("x86_64", 8): r"%ymm\d+",
    ("x86_64", 16): r"%zmm\d+",
    ("aarch64", 4): r"v\d+\.4s",
}
# A lane is 32 bits: a float, or in a product of bf16 a pair of them.
LANES = {"s": 1, "d": 2, "q": 4, "4s": 4, "xmm": 4, "ymm": 8, "zmm": 16}

ADDRESS = re.compile(r"\(.*%.*\)|\[(?:x|sp)")
STACK = re.compile(r"%[re][sb]p|\bsp\b|\bx29\b")  # zig keeps frame pointers: they are no others
STORE = re.compile(r"st|(?!lea|cmp|test|prefetch).*\)$")  # x86 names the destination last
ONE_LANE = re.compile(r"v?mov(?:ss|d)\s|vp?broadcast(?:ss|d)\s|ld1r|.*\{1to")

Functions = dict[str, list[str]]  # name -> its labels and instructions
Assembly = Mapping[tuple[str, str], Functions]


def compiled(native: Path, isa: str, machine: str, scratch: Path) -> Functions:
    """Compile one file of ``native/isa`` as ``llmc build`` would, but to assembly."""
    # zig itself passes a -c to clang, which then complains that it is of no use.
    foreign = ("-target", f"{machine}-linux-musl", "-g0", "-Wno-unused-command-line-argument")
    zig = dataclasses.replace(toolchain.zig(), extra=foreign)
    steps = toolchain.plan(zig, native, scratch, machine=machine).objects
    (step,) = (step for step in steps if step.source == native / "isa" / f"{isa}.c")
    caches = {f"ZIG_{kind}_CACHE_DIR": str(scratch / "zig") for kind in ("LOCAL", "GLOBAL")}
    argv = ["-S" if word == "-c" else word for word in step.argv]
    assert run_quietly(argv, caches) == Finished(0, "")

    functions: Functions = {}
    lines: list[str] = []
    for raw in step.output.read_text("utf-8").splitlines():
        line = raw.split(COMMENT[machine], maxsplit=1)[0].strip()
        if re.match(r"[A-Za-z_]\w*:$", line):
            lines = functions.setdefault(line[:-1], [])
        elif line.endswith(":") or (line and not line.startswith(".")):
            lines.append(line)
    return functions


def inner_loops(lines: list[str]) -> list[list[str]]:
    """Return the innermost loops: what stands between a label and a branch back to it."""
    loops, label, block = [], "", list[str]()
    for line in lines:
        if line.endswith(":"):
            label, block = line[:-1], []
        else:
            block.append(line)
            if label and line.split()[-1] == label:
                loops.append(block)
                label, block = "", []
    return loops


def tile_loop(functions: Functions, multiply: str) -> list[str]:
    """Return the loop of the matrix product: of its inner loops, the one that multiplies most."""
    products = (lines for name, lines in functions.items() if "gemm" in name)
    loops = [loop for lines in products for loop in inner_loops(lines)]
    return max(loops, key=lambda loop: sum(line.startswith(multiply) for line in loop))


def lanes_read(line: str) -> int:
    """Return how much an instruction reads from memory, in lanes of four bytes."""
    if not ADDRESS.search(line) or STORE.match(line) or line.startswith("lea"):
        return 0
    if ONE_LANE.match(line):
        return 1
    registers = line.split("[", maxsplit=1)[0]
    kinds = re.findall(r"%([xyz]mm)|\b([sdq])\d|\bv\d+\.(4s)", registers)
    widths = [LANES["".join(kind)] for kind in kinds] or [2]  # a general register has 8 bytes
    return widths[0] if "%" in line else sum(widths)


def constant(native: Path, isa: str, name: str) -> int:
    """Return what a file of ``native/isa/`` defines."""
    text = (native / "isa" / f"{isa}.c").read_text("utf-8")
    found = re.search(rf"^#define {name}\s+(\d+)", text, re.M)
    assert found, f"{isa}.c defines no {name}"
    return int(found[1])


def faults(loop: list[str], native: Path, isa: str, machine: str) -> list[str]:
    """Return what is wrong with a tile's loop over k, each in a few words."""
    VL, MR, NRV = (constant(native, isa, name) for name in ("VL", "MR", "NRV"))
    found = [f"stack: {line}" for line in loop if STACK.search(line)]
    found += [f"store: {line}" for line in loop if STORE.match(line)]
    counts = [sum(line.split()[0] == name for line in loop) for name in TILES[isa, machine]]
    steps, rest = divmod(counts[-1], MR * NRV)
    if steps == 0 or rest > 0 or len(set(counts)) > 1:
        found.append(f"{counts} times {TILES[isa, machine]}, no multiple of {MR} x {NRV}")
    at = -1 if machine == "x86_64" else 1  # where the destination stands
    add = TILES[isa, machine][-1]
    sums = {re.split(r"[\s,]+", line)[at] for line in loop if line.split()[0] == add}
    if len(sums) != MR * NRV or not all(re.fullmatch(WHOLE[machine, VL], name) for name in sums):
        found.append(f"accumulators {sorted(sums)}, not {MR} x {NRV} whole registers")
    read = sum(map(lanes_read, loop))
    if read != (MR + NRV * VL) * steps:
        found.append(f"{steps} steps read {read} lanes, not {MR} of A and {NRV * VL} of B each")
    return found


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    """Every table's functions; each file is compiled once."""
    scratch = tmp_path_factory.mktemp("assembly")
    return {table: compiled(NATIVE, *table, scratch) for table in TILES}


def test_every_instruction_set_has_a_row() -> None:
    shipped = {path.stem for path in (NATIVE / "isa").glob("*.c")}
    assert {isa for isa, _ in TILES} == shipped
    for isa, machine in TILES:
        assert toolchain.ISAS[isa].machine in (None, machine)


@EVERY_TABLE
def test_the_tile_stays_in_registers(isa: str, machine: str, assembly: Assembly) -> None:
    loop = tile_loop(assembly[isa, machine], TILES[isa, machine][0])
    assert faults(loop, NATIVE, isa, machine) == [], "\n".join(loop)


@EVERY_TABLE
def test_adamw_takes_roots_of_whole_vectors(isa: str, machine: str, assembly: Assembly) -> None:
    whole = WHOLE[machine, constant(NATIVE, isa, "VL")]
    root = re.compile(rf"v?f?sqrt(?:ps)?\s+{whole}, {whole}$")
    loops = inner_loops(assembly[isa, machine]["adamw_task"])
    assert any(root.match(line) for loop in loops for line in loop)


@EVERY_TABLE
def test_exponentials_are_vectors(isa: str, machine: str, assembly: Assembly) -> None:
    """Both softmaxes: the shift by 23 that moves an exponent into its place, and nobody's expf."""
    whole = WHOLE[machine, constant(NATIVE, isa, "VL")]
    shift = re.compile(rf"(?:v?pslld\s+\$23,.*{whole}|shl\s+{whole},.*#23)$")
    for name in ("attention_forward_task", "crossentropy_task"):
        loops = inner_loops(assembly[isa, machine][name])
        assert any(shift.match(line) for loop in loops for line in loop), name
    call = re.compile(r"(?:call\w?|bl|jmp|b)\s+(?:exp|tanh|sqrt)")
    for name, lines in assembly[isa, machine].items():
        # Decoding calls it once for every 2 HS multiply-adds.
        if name != "attention_decode_task":
            assert [line for line in lines if call.match(line)] == [], name


def faults_after(change: tuple[str, str, str], isa: str, machine: str, tmp_path: Path) -> list[str]:
    """Return the faults of the tile when a pattern in one of the sources is replaced."""
    name, pattern, new = change
    native = Path(shutil.copytree(NATIVE, tmp_path / "native"))
    text, times = re.subn(pattern, new, (native / name).read_text("utf-8"))
    assert times > 0
    (native / name).write_text(text, "utf-8")
    loop = tile_loop(compiled(native, isa, machine, tmp_path), TILES[isa, machine][0])
    return faults(loop, native, isa, machine)


@EVERY_TABLE
def test_a_tile_that_is_not_unrolled_is_noticed(isa: str, machine: str, tmp_path: Path) -> None:
    rolled = ("kernels/gemm_tmpl.c", r"(#pragma GCC unroll) \d+", r"\1 1")
    assert faults_after(rolled, isa, machine, tmp_path) != []


def test_a_tile_too_large_for_the_registers_is_noticed(tmp_path: Path) -> None:
    larger = ("isa/avx2.c", r"#define MR 6", "#define MR 8")
    found = faults_after(larger, "avx2", "x86_64", tmp_path)
    assert any(fault.startswith("stack: ") for fault in found), found


def test_the_source_leaves_no_unrolling_to_chance() -> None:
    """The compilers of today unroll most of these loops unasked; others need not."""
    asked = 0
    for path in (NATIVE / "kernels").glob("gemm*.c"):
        for above, line in itertools.pairwise(path.read_text("utf-8").splitlines()):
            if re.match(r"\s*for \(.* < (?:MR|NRV);", line) and "&edge" not in line:
                assert above.startswith("#pragma GCC unroll"), f"{path.name}: {line.strip()}"
                asked += 1
    assert asked > 0
