"""Print a makefile that builds the engine with any C compiler.

``python -m llmc.engine.makefile --cc cc --out DIR`` (``make native CC=cc``) first asks the compiler
which instruction sets it can compile, and leaves the others out.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from llmc.engine.toolchain import (
    TELLS_SOURCES,
    Compiler,
    Mode,
    c_compiler,
    engine_files,
    plan,
    probed,
)


def makefile(compiler: Compiler, native: Path, out: Path, mode: Mode = Mode.RELEASE) -> str:
    """Return rules for make: ``native`` builds the engine, ``native-tests`` the test programs.

    Raises:
        CompileFailed: as :func:`sources`.
    """
    files = list(engine_files(native))
    every = " ".join(map(str, files))
    headers = " ".join(str(path) for path in files if path.name.endswith((".h", "_tmpl.c")))
    engine = plan(compiler, native, out, mode=mode)
    programs = plan(compiler, native, out, mode=mode, tests=True)
    steps = {step.output: step for step in (*engine.objects, *programs.objects)}
    links = (*engine.links, *programs.links)
    lines = [
        "native: " + " ".join(str(step.output) for step in engine.links),
        "native-tests: " + " ".join(str(step.output) for step in programs.links),
        ".PHONY: native native-tests",
    ]
    for step in (*steps.values(), *links):
        inputs = [word for word in step.argv if word.endswith(".o") and word != str(step.output)]
        if step.source == native / TELLS_SOURCES:
            needs = every
        else:
            needs = f"{step.source} {headers}" if step.source else " ".join(inputs)
        lines += [f"{step.output}: {needs}", f"\t@mkdir -p {out}", f"\t{shlex.join(step.argv)}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the makefile that builds the engine with another C compiler."""
    parser = argparse.ArgumentParser(
        prog="python -m llmc.engine.makefile", description=main.__doc__
    )
    parser.add_argument("--cc", default="cc", help="the compiler, as CC names it")
    parser.add_argument("--cflags", default="", help="more flags, as CFLAGS names them")
    parser.add_argument("--native", type=Path, default=Path("native"), help="the C sources")
    parser.add_argument("--out", type=Path, required=True, help="where objects and programs go")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default="release")
    words = parser.parse_args()
    compiler = probed(c_compiler(words.cc, words.cflags))
    for name in sorted(compiler.lacks):
        print(f"note: {words.cc} cannot compile {name}: the engine has none", file=sys.stderr)
    print(makefile(compiler, words.native, words.out, Mode(words.mode)), end="")


if __name__ == "__main__":
    main()
