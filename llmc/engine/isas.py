"""The instruction sets that the engine has tables for, and the flags that compile each of them.

Each is a file of ``native/kernels/isa/``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Isa:
    """One file of ``native/kernels/isa/``: its machine, its flags for zig and for others."""

    machine: str | None  # the family of CPUs; None: every one
    zig: tuple[str, ...]  # the flags for ``zig cc``
    cc: tuple[str, ...]  # the flags for gcc and clang
    # C that a compiler must accept with these flags to compile the file.
    probe: str = "typedef int nothing;"


# zig spells CPU names with underscores and refuses gcc's -march. For x86-64-v4 the compiler prefers
# half-width registers, so a flag asks for whole ones.
AMX = Isa(
    "x86_64",
    (
        "-mcpu=x86_64_v4+avx512bf16+avx512vnni+amx_tile+amx_bf16+amx_int8",
        "-mprefer-vector-width=512",
    ),
    (
        "-march=x86-64-v4",
        *("-mavx512bf16", "-mavx512vnni", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
        "-mprefer-vector-width=512",
    ),
    "#include <immintrin.h>\n__m512 f(__m512 s, __m512i a) { _tile_dpbf16ps(0, 1, 2); "
    "return _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)a); }",
)
NEONBF16 = Isa(
    "aarch64",
    ("-mcpu=baseline+bf16+dotprod",),
    ("-march=armv8.2-a+bf16+dotprod",),
    "#include <arm_neon.h>\nfloat32x4_t f(float32x4_t s, int8x16_t a) "
    "{ bfloat16x8_t b = (bfloat16x8_t)a; return vbfmmlaq_f32(vbfdotq_f32(s, b, b), b, b); }",
)
ISAS = {
    "generic": Isa(None, (), ()),
    "avx2": Isa("x86_64", ("-mcpu=x86_64_v3",), ("-march=x86-64-v3",)),
    "avx512": Isa(
        "x86_64",
        ("-mcpu=x86_64_v4", "-mprefer-vector-width=512"),
        ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    ),
    "avx512bf16": Isa(
        "x86_64",
        ("-mcpu=x86_64_v4+avx512bf16+avx512vnni", "-mprefer-vector-width=512"),
        ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni", "-mprefer-vector-width=512"),
        "#include <immintrin.h>\n__m512 f(__m512 s, __m512i a) "
        "{ return _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)a); }",
    ),
    "amx": AMX,
    "amxfp32": AMX,
    "blas": Isa(None, (), ()),
    "native": Isa(None, (), ()),
    "neon": Isa("aarch64", (), ()),
    "neonbf16": NEONBF16,
    "bfmmla": NEONBF16,
    "sme": replace(
        NEONBF16,
        probe='void f(void) { __asm__ volatile(".arch_extension sme\\nsmstart\\nsmstop"); }',
    ),
}
