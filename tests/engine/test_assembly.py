"""What the compiler makes of the inner loops: a guard on speed that looks at no clock.

Every file of ``native/kernels/isa/`` is compiled to assembly with the product's own flags, for
x86-64 and for ARM wherever the tests run. The loop under every matrix product must keep its
accumulators in registers and touch no memory but its two panels; roots and exponentials must be
vectors.

A new instruction set needs a row in ``TILES`` for each of its tiles. Compiling takes up to 15
seconds a file, so ``make test`` looks at ``QUICK`` alone, ``make test-full`` at every one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from llmc.engine import toolchain
from llmc.engine.isas import ISAS
from llmc.engine.process import Finished, run_quietly
from llmc.engine.toolchain import host_machine
from llmc.paths import shipped_dir


class Tile(NamedTuple):
    """One tile: its file of ``native/kernels/isa/``, a machine, and its instructions."""

    isa: str
    machine: str
    instructions: tuple[str, ...]  # to multiply and add; the last one accumulates
    words: int = 1  # that an instruction takes of each lane


TILES = (
    Tile("generic", "x86_64", ("mulps", "addps")),
    Tile("generic", "aarch64", ("fmla",)),
    Tile("avx2", "x86_64", ("vfmadd231ps",)),
    Tile("avx512", "x86_64", ("vfmadd231ps",)),
    Tile("avx512bf16", "x86_64", ("vfmadd231ps",)),
    Tile("avx512bf16", "x86_64", ("vdpbf16ps",)),
    Tile("amx", "x86_64", ("vfmadd231ps",)),
    Tile("neon", "aarch64", ("fmla",)),
    Tile("neonbf16", "aarch64", ("fmla",)),
    Tile("neonbf16", "aarch64", ("bfdot",)),
    Tile("bfmmla", "aarch64", ("fmla",)),
    Tile("bfmmla", "aarch64", ("bfmmla",), words=2),
)
# Its products are written in assembly, in native/kernels/sme.h.
FILES = (*dict.fromkeys((tile.isa, tile.machine) for tile in TILES), ("sme", "aarch64"))
QUICK = ("neon" if host_machine() == "aarch64" else "avx2",)


def full_unless_quick(isa: str) -> tuple[pytest.MarkDecorator, ...]:
    """Return the marks of a test of an instruction set."""
    return () if isa in QUICK else (pytest.mark.full,)


EVERY_FILE = pytest.mark.parametrize(
    ("isa", "machine"), [pytest.param(*file, marks=full_unless_quick(file[0])) for file in FILES]
)

NATIVE = shipped_dir("native")
COMMENT = {"x86_64": "#", "aarch64": "//"}
# How a register is written whose VL lanes are all computed on, by machine and VL.
WHOLE = {
    ("x86_64", 4): r"%xmm\d+",
    ("x86_64", 8): r"%ymm\d+",
    ("x86_64", 16): r"%zmm\d+",
    ("aarch64", 4): r"v\d+\.4s",
}
VECTOR = {"x86_64": r"%[xyz]mm\d+", "aarch64": r"\b[vq]\d+"}
# A lane is 32 bits: a float, or in a product of bf16 a pair of them.
LANES = {"s": 1, "d": 2, "q": 4, "4s": 4, "xmm": 4, "ymm": 8, "zmm": 16}

ADDRESS = re.compile(r"\(.*%.*\)|\[(?:x|sp)")
STACK = re.compile(r"%[re][sb]p|\bsp\b|\bx29\b")  # zig keeps frame pointers: they are no others
STORE = re.compile(r"st|(?!lea|cmp|test|prefetch).*\)$")  # x86 names the destination last
ONE_LANE = re.compile(r"v?mov(?:ss|d)\s|vp?broadcast(?:ss|d)\s|ld1r|.*\{1to")

Functions = dict[str, list[str]]  # name -> its labels and instructions
Assembly = Callable[[str, str], Functions]


def compiled(native: Path, isa: str, machine: str, scratch: Path) -> Functions:
    """Compile one file of ``native/kernels/isa`` as ``llmc build`` would, but to assembly."""
    zig = toolchain.zig(f"{machine}-linux-musl")
    # zig itself passes a -c to clang, which then complains that it is of no use.
    zig = dataclasses.replace(zig, extra=(*zig.extra, "-g0", "-Wno-unused-command-line-argument"))
    steps = toolchain.plan(zig, native, scratch).objects
    (step,) = (step for step in steps if step.source == native / "kernels" / "isa" / f"{isa}.c")
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


def tile_loop(functions: Functions, tile: Tile) -> list[str]:
    """Return the loop of the matrix product: of its inner loops, the one that multiplies most."""
    products = (lines for name, lines in functions.items() if "gemm" in name)
    loops = [loop for lines in products for loop in inner_loops(lines)]
    return max(loops, key=lambda loop: count(loop, tile.instructions[0]))


def around_tile(functions: Functions, tile: Tile) -> list[str]:
    """Return the next loop out: the tile's loop takes turns with fetching what comes later."""
    loop = tile_loop(functions, tile)
    for name, lines in functions.items():
        if "gemm" not in name:
            continue
        labels = {line[:-1]: at for at, line in enumerate(lines) if line.endswith(":")}
        branches = [(labels.get(line.split()[-1], at), at) for at, line in enumerate(lines)]
        for at in range(len(lines) - len(loop)):
            if lines[at : at + len(loop)] == loop:
                outer = ((i, j) for i, j in branches if i < at - 1 and j >= at + len(loop))
                begin, end = min(outer, key=lambda ends: ends[1] - ends[0])
                return lines[begin:end]
    raise AssertionError("no function holds the loop")


def count(loop: list[str], instruction: str) -> int:
    """Return how often an instruction stands in a loop."""
    return sum(line.split()[0] == instruction for line in loop)


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
    """Return what a file of ``native/kernels/isa/`` defines."""
    text = (native / "kernels" / "isa" / f"{isa}.c").read_text("utf-8")
    found = re.search(rf"^#define {name}\s+(\d+)", text, re.M)
    assert found, f"{isa}.c defines no {name}"
    return int(found[1])


def faults(functions: Functions, native: Path, tile: Tile) -> list[str]:
    """Return what is wrong with a tile's loop over k, each in a few words."""
    loop = tile_loop(functions, tile)
    VL, MR, NRV = (constant(native, tile.isa, name) for name in ("VL", "MR", "NRV"))
    found = [f"stack: {line}" for line in loop if STACK.search(line)]
    found += [f"store: {line}" for line in loop if STORE.match(line)]
    counts = [count(loop, name) for name in tile.instructions]
    steps, rest = divmod(counts[-1], MR * NRV)
    if steps == 0 or rest > 0 or len(set(counts)) > 1:
        found.append(f"{counts} times {tile.instructions}, no multiple of {MR} x {NRV}")
    at = -1 if tile.machine == "x86_64" else 1  # where the destination stands
    adds = (line for line in loop if line.split()[0] == tile.instructions[-1])
    sums = {re.split(r"[\s,]+", line)[at] for line in adds}
    whole = re.compile(WHOLE[tile.machine, VL])
    if len(sums) != MR * NRV or not all(map(whole.fullmatch, sums)):
        found.append(f"accumulators {sorted(sums)}, not {MR} x {NRV} whole registers")
    read = sum(map(lanes_read, loop))
    if read != (MR + NRV * VL) * steps * tile.words:
        found.append(f"{steps} steps read {read} words of {MR} lanes of A and {NRV * VL} of B")
    vector = re.compile(VECTOR[tile.machine])
    around = around_tile(functions, tile)
    found += [f"spilled: {line}" for line in around if STACK.search(line) and vector.search(line)]
    return found


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    """Return what gives a file's functions; each file is compiled once."""
    scratch = tmp_path_factory.mktemp("assembly")
    return cache(lambda isa, machine: compiled(NATIVE, isa, machine, scratch))


def test_every_instruction_set_has_a_row() -> None:
    shipped = {path.stem for path in (NATIVE / "kernels" / "isa").glob("*.c")}
    shipped -= {"native", "blas", "amxfp32"}  # they include one of the others
    assert {isa for isa, _ in FILES} == shipped
    for isa, machine in FILES:
        assert ISAS[isa].machine in (None, machine)


@pytest.mark.parametrize(
    "tile",
    [
        pytest.param(tile, id="-".join((*tile[:2], *tile[2])), marks=full_unless_quick(tile.isa))
        for tile in TILES
    ],
)
def test_the_tile_stays_in_registers(tile: Tile, assembly: Assembly) -> None:
    functions = assembly(tile.isa, tile.machine)
    assert faults(functions, NATIVE, tile) == [], "\n".join(tile_loop(functions, tile))


@pytest.mark.full
@pytest.mark.parametrize(
    "task", ["tiled_multiply_pairs", "attention_forward_task", "attention_backward_task"]
)
def test_a_step_of_amx_multiplies_two_tiles_by_two(task: str, assembly: Assembly) -> None:
    """Tiles 0 to 3 are the sums, 4 to 7 the factors; nothing else happens between the products."""
    lines = assembly("amx", "x86_64")[task]
    products = [at for at, line in enumerate(lines) if line.startswith("tdpbf16ps")]
    tiles = {at: re.findall(r"%tmm(\d)", lines[at]) for at in products}
    assert {tile for found in tiles.values() for tile in found[:2]} == set("4567")
    assert {found[2] for found in tiles.values()} == set("0123")
    steps = 0
    for four in zip(*(products[i:] for i in range(4)), strict=False):
        if [tiles[at][2] for at in four] == ["0", "2", "1", "3"]:
            step, steps = lines[four[0] : four[3]], steps + 1
            assert [line for line in step if STACK.search(line) or "tilestored" in line] == []
    assert steps > 0


@pytest.mark.full
def test_streaming_mode_holds_nothing_but_outer_products(assembly: Assembly) -> None:
    """A claim enters it once; in it are no calls, no stack, and no registers of NEON."""
    modes = 0
    for name, lines in assembly("sme", "aarch64").items():
        begins = [at for at, line in enumerate(lines) if line.startswith("smstart")]
        ends = [at for at, line in enumerate(lines) if line.startswith("smstop")]
        assert len(begins) == len(ends), name
        for begin, end in zip(begins, ends, strict=True):
            inside, modes = lines[begin + 1 : end], modes + 1
            products = [line for line in inside if re.match(r"b?fmopa\s", line)]
            assert [line.split()[1] for line in products] == [f"za{i}.s," for i in range(4)], name
            other = [line for line in inside if re.search(r"\b(?:[vqd]\d+|bl|sp)\b", line)]
            assert other == [], name
    assert modes >= 4  # products and the peak, of floats and of pairs


# The other loops that multiply: attention's strips, and decoding of several texts.
MULTIPLY = re.compile(r"v?f?m(?:add231ps|ulps|la)$|vdpbf16ps$|bfdot$|bfmmla$")


@EVERY_FILE
def test_the_sums_of_strips_and_of_decoding_stay_in_registers(
    isa: str, machine: str, assembly: Assembly
) -> None:
    functions, vector = assembly(isa, machine), re.compile(VECTOR[machine])
    for name in ("strip_product", "decode_linear_task"):
        loops = [
            loop
            for loop in inner_loops(functions[name])
            if sum(bool(MULTIPLY.match(line.split()[0])) for line in loop) >= 4
            # BF16 taken apart into floats, where no instruction multiplies it, is another matter.
            and not any(re.match(r"v?pslld|shl", line) for line in loop)
        ]
        assert loops, name
        for loop in loops:
            spilled = [line for line in loop if STACK.search(line) and vector.search(line)]
            assert spilled == [], (name, "\n".join(loop))


@EVERY_FILE
def test_adamw_takes_roots_of_whole_vectors(isa: str, machine: str, assembly: Assembly) -> None:
    whole = WHOLE[machine, constant(NATIVE, isa, "VL")]
    root = re.compile(rf"v?f?sqrt(?:ps)?\s+{whole}, {whole}$")
    loops = inner_loops(assembly(isa, machine)["adamw_task"])
    assert any(root.match(line) for loop in loops for line in loop)


@EVERY_FILE
def test_exponentials_are_vectors(isa: str, machine: str, assembly: Assembly) -> None:
    """Both softmaxes: the shift by 23 that moves an exponent into its place, and nobody's expf."""
    whole = WHOLE[machine, constant(NATIVE, isa, "VL")]
    shift = re.compile(rf"(?:v?pslld\s+\$23,.*{whole}|shl\s+{whole},.*#23)$")
    # Of attention what a batch and a prompt go through, a function of its own or inside theirs.
    for names in (("attention_strip", "attention_forward_task"), ("crossentropy_task",)):
        found = [assembly(isa, machine)[name] for name in names if name in assembly(isa, machine)]
        loops = [loop for lines in found for loop in inner_loops(lines)]
        assert any(shift.match(line) for loop in loops for line in loop), names
    call = re.compile(r"(?:call\w?|bl|jmp|b)\s+(?:exp|tanh|sqrt)")
    for name, lines in assembly(isa, machine).items():
        # Decoding calls it once for every 2 HS multiply-adds.
        if name != "attention_decode_task":
            assert [line for line in lines if call.match(line)] == [], name


def faults_after(change: tuple[str, str, str], tiles: list[Tile], scratch: Path) -> list[list[str]]:
    """Return the faults of one file's tiles when a pattern in one of the sources is replaced."""
    name, pattern, new = change
    native = Path(shutil.copytree(NATIVE, scratch / "native"))
    text, times = re.subn(pattern, new, (native / name).read_text("utf-8"))
    assert times > 0
    (native / name).write_text(text, "utf-8")
    functions = compiled(native, tiles[0].isa, tiles[0].machine, scratch)
    return [faults(functions, native, tile) for tile in tiles]


@pytest.mark.parametrize(
    "isa",
    [
        pytest.param(isa, marks=pytest.mark.full)
        for isa in ("avx2", "avx512bf16", "neonbf16", "bfmmla")
    ],
)
def test_a_tile_that_is_not_unrolled_is_noticed(isa: str, tmp_path: Path) -> None:
    rolled = ("kernels/gemm_tmpl.c", r"(#pragma GCC unroll) \d+", r"\1 1")
    assert all(faults_after(rolled, [tile for tile in TILES if tile.isa == isa], tmp_path))


@pytest.mark.full
def test_a_tile_too_large_for_the_registers_is_noticed(tmp_path: Path) -> None:
    larger = ("kernels/isa/avx2.c", r"#define MR 6", "#define MR 8")
    (found,) = faults_after(larger, [tile for tile in TILES if tile.isa == "avx2"], tmp_path)
    assert any(fault.startswith("stack: ") for fault in found), found


@pytest.mark.full
def test_sums_that_leave_the_registers_between_fetches_are_noticed(tmp_path: Path) -> None:
    taken = ", ".join(f'"xmm{i}"' for i in range(8))
    fetch = "ahead_fetch(&fetches->panel);"
    crowded = f'{fetch} __asm__ volatile("" ::: {taken});'
    change = ("kernels/gemm_tmpl.c", re.escape(fetch), crowded)
    (found,) = faults_after(change, [tile for tile in TILES if tile.isa == "avx2"], tmp_path)
    assert found and all(fault.startswith("spilled: ") for fault in found), found


def test_the_source_leaves_no_unrolling_to_chance() -> None:
    """Compilers unroll some of these loops unasked, for some instruction sets, today."""
    asked = 0
    for path in (*(NATIVE / "kernels").glob("gemm*.c"), NATIVE / "kernels/quads_tmpl.c"):
        for above, line in itertools.pairwise(path.read_text("utf-8").splitlines()):
            if re.match(r"\s*for \(.* < (?:MR|NRV|vectors);", line):
                assert above.startswith("#pragma GCC unroll"), f"{path.name}: {line.strip()}"
                asked += 1
    assert asked > 0
