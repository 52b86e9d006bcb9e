"""Plan how the engine is compiled: the sources, the flags of each file, the hash of a build.

The same table serves zig (``llmc build``) and any other C compiler (:mod:`llmc.engine.makefile`).
One binary holds every instruction set of the machine's family: only ``native/kernels/isa/`` is
compiled for newer CPUs, everything else for the oldest, and the engine chooses while running.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Literal, get_args

from llmc.engine.isas import ISAS
from llmc.errors import CompileFailed
from llmc.installation import pip_install

BINARY = "llmc-native"
Target = Literal[
    "x86_64-linux-gnu",
    "x86_64-linux-musl",
    "x86_64-macos",
    "aarch64-linux-gnu",
    "aarch64-linux-musl",
    "aarch64-macos",
    "x86_64-windows-gnu",
    "aarch64-windows-gnu",
]
TARGETS: tuple[str, ...] = get_args(Target)


# The plain loops that everything else is measured against: no clever reordering of loops.
UNUSUAL = {"plain.c": ("-O2",), "plain_decode.c": ("-O2",)}
# Every machine has to make the same bits of these: a product and a sum are rounded one by one.
EXACT = {"random.c": ("-ffp-contract=off",)}

# This file is told what the engine was compiled from: ranks of one run must agree about it.
TELLS_SOURCES = Path("ranks", "ranks_posix.c")

WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wcast-qual",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    # Vectors are passed between inlined functions only, where no calling convention applies.
    "-Wno-psabi",
)


class Cpu(Enum):
    """The CPUs that a binary is for."""

    BASELINE = "baseline"  # all of the family, with all instruction sets
    NATIVE = "native"  # only this machine's


class Mode(Enum):
    """What a build is for."""

    RELEASE = "release"
    DEBUG = "debug"
    SANITIZE = "sanitize"


def host_system() -> str:
    """Return the machine's system: ``linux``, ``macos``, ``windows`` or another name."""
    name = platform.system().lower()
    return {"darwin": "macos"}.get(name, name)


def host_machine() -> str:
    """Return the machine's architecture: ``x86_64``, ``aarch64`` or another name."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@dataclass(frozen=True)
class Compiler:
    """A C compiler: its command, the flags it understands, its version."""

    command: tuple[str, ...]  # the words before the flags
    is_zig: bool  # it is ``zig cc``
    version: str = ""  # part of the build's hash
    extra: tuple[str, ...] = ()  # the last flags, which override others
    cpu: Cpu = Cpu.BASELINE  # whether it compiles for the whole family or for this machine's CPU
    # The family of CPUs that it compiles for, as :func:`host_machine` names them.
    machine: str = field(default_factory=host_machine)
    system: str = field(default_factory=host_system)  # likewise, as :func:`host_system` names it
    # The instruction sets that it cannot compile, which its builds leave out.
    lacks: frozenset[str] = frozenset()

    @property
    def is_for_windows(self) -> bool:
        """Whether its programs run on Windows."""
        return self.system == "windows"

    @property
    def baseline(self) -> tuple[str, ...]:
        """Flags for the oldest CPU of the machine's family, or for this CPU alone."""
        if self.cpu is Cpu.BASELINE:
            return ("-mcpu=baseline",) if self.is_zig else ()  # another compiler's own default
        wide = ("-mprefer-vector-width=512",) if self.machine == "x86_64" else ()
        return ("-mcpu=native" if self.is_zig else "-march=native", *wide)

    def isa(self, name: str) -> tuple[str, ...]:
        """Return the flags of an instruction set; the baseline's if it has none."""
        return (ISAS[name].zig if self.is_zig else ISAS[name].cc) or self.baseline

    def mode(self, mode: Mode) -> tuple[str, ...]:
        """Return the flags of a mode, for compiling and for linking.

        zig turns the undefined-behaviour sanitizer on by itself unless told not to (seventy times
        slower), and ships no address sanitizer runtime.
        """
        level = ("-O3",) if mode is Mode.RELEASE else ("-O1", "-g", "-fno-omit-frame-pointer")
        if mode is Mode.SANITIZE:
            kinds = "undefined" if self.is_zig else "undefined,address"
            return (*level, f"-fsanitize={kinds}", "-fno-sanitize-recover=all")
        return (*level, "-fno-sanitize=all") if self.is_zig else level

    @property
    def common(self) -> tuple[str, ...]:
        """The flags of every file: C11, threads, warnings, FMA but no other liberty with floats.

        gcc contracts nothing in ISO mode and knows only ``fast``, which (unlike -ffast-math)
        permits contraction and nothing else. Warnings are errors under zig, whose version is known;
        with another compiler a person may ask for that: ``CFLAGS=-Werror``.
        """
        return (
            "-std=c11",
            "-pthread",
            "-ffp-contract=on" if self.is_zig else "-ffp-contract=fast",
            # No value changes: sqrtf need not set errno, so that it can be a vector instruction.
            "-fno-math-errno",
            *WARNINGS,
            *(("-Werror",) if self.is_zig else ()),
            # mingw-w64's own printf: it rounds and prints as those of Linux and macOS do.
            *(("-D__USE_MINGW_ANSI_STDIO=1",) if self.is_for_windows else ()),
        )

    @property
    def libraries(self) -> tuple[str, ...]:
        """The libraries of every program."""
        return ("-lm", "-lpthread", "-lshell32" if self.is_for_windows else "-ldl")

    def program(self, name: str) -> str:
        """Return the file name of a program, such as the engine's (:data:`BINARY`)."""
        return f"{name}.exe" if self.is_for_windows else name


@dataclass(frozen=True)
class Step:
    """One run of the compiler."""

    output: Path
    source: Path | None  # None: a link
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The compiler runs of one build: objects in any order, then links."""

    objects: tuple[Step, ...]
    links: tuple[Step, ...]


def zig(target: str | None = None) -> Compiler:
    """Return zig's C compiler, from the ``ziglang`` package.

    It compiles for this machine and its system, or for one of :data:`TARGETS`. A binary for musl
    links nothing at run time.

    Raises:
        CompileFailed: the package is not installed.
    """
    found = importlib.util.find_spec("ziglang")
    for folder in (found.submodule_search_locations or []) if found else []:
        for program in (Path(folder, "zig"), Path(folder, "zig.exe")):
            if program.is_file():
                version = importlib.metadata.version("ziglang")
                here = Compiler((str(program), "cc"), is_zig=True, version=version)
                if target is None:
                    return here
                machine, system = target.split("-")[:2]
                return replace(here, machine=machine, system=system, extra=("-target", target))
    raise CompileFailed(
        f"the C compiler is missing: run '{pip_install('ziglang')}', then try again"
    )


def c_compiler(command: str, flags: str = "") -> Compiler:
    """Return a compiler from the words of ``CC`` and ``CFLAGS``."""
    words = tuple(shlex.split(command))
    is_zig = any(Path(word).name in ("zig", "zig.exe", "ziglang") for word in words)
    return Compiler(words, is_zig, extra=tuple(shlex.split(flags)))


def probed(compiler: Compiler) -> Compiler:
    """Return the compiler with the instruction sets that it lacks: it is run to find out."""

    def accepts(name: str) -> bool:
        argv = [*compiler.command, *compiler.isa(name), *compiler.extra, "-x", "c", "-c"]
        probe = ISAS[name].probe.encode()
        with tempfile.TemporaryDirectory() as folder:  # zig writes beside it what is for /dev/null
            argv += ["-o", f"{folder}/probe.o", "-"]
            done = subprocess.run(argv, input=probe, capture_output=True, check=False)
        return done.returncode == 0

    mine = [name for name, isa in ISAS.items() if isa.machine == compiler.machine]
    return replace(compiler, lacks=frozenset(name for name in mine if not accepts(name)))


def is_for(path: Path, system: str) -> bool:
    """Whether a C file is compiled for ``system``.

    A fact that Windows has otherwise stands in two files, ``*_posix.c`` and ``*_win32.c``.
    """
    return not path.stem.endswith("_posix" if system == "windows" else "_win32")


def sources(
    native: Path,
    machine: str,
    cpu: Cpu = Cpu.BASELINE,
    lacks: frozenset[str] = frozenset(),
    system: str | None = None,
) -> list[Path]:
    """Return the engine's compilation units: every ``.c`` file for ``machine`` and ``system``.

    Of ``native/kernels/isa/`` these are the tables of ``machine`` less those that the compiler
    lacks; for this CPU alone ``native.c`` stands for the instruction set that it has. ``*_tmpl.c``
    are templates, which the tables include; ``native/tests/`` holds programs of their own. The
    default system is this machine's.

    Raises:
        CompileFailed: there are none, or an instruction set has no flags in this module's table.
    """
    isas = []
    for path in sorted(native.glob("kernels/isa/*.c")):
        if path.stem not in ISAS:
            raise CompileFailed(
                f"{path} has no row in the table ISAS of llmc/engine/isas.py: add one"
            )
        is_wanted = (path.stem == "native") == (cpu is Cpu.NATIVE) and path.stem not in lacks
        if is_wanted and ISAS[path.stem].machine in (None, machine):
            isas.append(path)
    others = (path for path in engine_files(native) if path.suffix == ".c")
    found = [
        path
        for path in others
        if not path.name.endswith("_tmpl.c")
        and path.parent != native / "kernels" / "isa"
        and is_for(path, system or host_system())
    ] + isas
    if not found:
        raise CompileFailed(f"no C sources in {native}: reinstall llmc")
    return found


def plan(
    compiler: Compiler,
    native: Path,
    out: Path,
    *,
    mode: Mode = Mode.RELEASE,
    tests: bool = False,
) -> Plan:
    """Return the commands that build ``out/llmc-native``, or each test program, from ``native``.

    A test program ``native/tests/**/test_*.c`` is linked with every object but main.o.

    Raises:
        CompileFailed: as :func:`sources`.
    """
    files = sources(native, compiler.machine, compiler.cpu, compiler.lacks, compiler.system)
    tables = [path.stem for path in files if path.parent.name == "isa"]
    common = (
        *compiler.common,
        *compiler.mode(mode),
        f"-I{native}",
        *(f"-DLLMC_HAVE_{name.upper()}" for name in tables),
    )

    told = sources_hash(native)

    def compiled(source: Path) -> Step:
        name = source.relative_to(native).with_suffix(".o").as_posix().replace("/", "_")
        isa = source.stem if source.parent.name == "isa" else "generic"
        flags = (
            *(UNUSUAL.get(source.name, ()) if mode is Mode.RELEASE else ()),
            *EXACT.get(source.name, ()),
            *((f"-DLLMC_SOURCES=0x{told}u",) if source == native / TELLS_SOURCES else ()),
            *compiler.isa(isa),
            *compiler.extra,
        )
        ends = ("-c", str(source), "-o", str(out / name))
        return Step(out / name, source, (*compiler.command, *common, *flags, *ends))

    def linked(name: str, objects: list[Step]) -> Step:
        flags = (*compiler.mode(mode), *compiler.baseline, "-pthread", *compiler.extra)
        inputs = (str(step.output) for step in objects)
        program = out / compiler.program(name)
        ends = ("-o", str(program), *compiler.libraries)
        return Step(program, None, (*compiler.command, *flags, *inputs, *ends))

    objects = [compiled(source) for source in files]
    if not tests:
        return Plan(tuple(objects), (linked(BINARY, objects),))
    shared = [step for step in objects if step.source != native / "main.c"]
    tested = (path for path in native.glob("tests/**/test_*.c") if is_for(path, compiler.system))
    programs = {path.stem: compiled(path) for path in sorted(tested)}
    links = (linked(name, [*shared, step]) for name, step in programs.items())
    return Plan((*shared, *programs.values()), tuple(links))


def build_key(
    compiler: Compiler, native: Path, mode: Mode = Mode.RELEASE, *, tests: bool = False
) -> str:
    """Return the name of a build: a hash of sources, headers, flags, compiler and machine.

    With ``tests`` it names a build of the test programs. The names and contents of the sources
    matter, but not their folder.

    Raises:
        CompileFailed: as :func:`sources`.
    """
    digest = hashlib.sha256()

    def add(*words: str | bytes) -> None:
        for word in words:
            data = word.encode() if isinstance(word, str) else word
            digest.update(len(data).to_bytes(8, "little") + data)

    add(compiler.system, compiler.machine, compiler.version, mode.name)
    whole = plan(compiler, native, Path("out"), mode=mode, tests=tests)
    for step in (*whole.objects, *whole.links):
        words = step.argv[len(compiler.command) :]
        add(*(word.replace(str(native), "native") for word in words))
    for path in sorted(native.rglob("*.[ch]")) if tests else engine_files(native):
        add(path.relative_to(native).as_posix(), path.read_bytes())
    return digest.hexdigest()[:32]


def sources_hash(native: Path) -> str:
    """Return 16 hexadecimal digits, a hash of the engine's sources and headers."""
    digest = hashlib.sha256()
    for path in engine_files(native):
        data = path.read_bytes()
        name = path.relative_to(native).as_posix()
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def engine_files(native: Path) -> Iterator[Path]:
    """Yield the engine's own sources and headers, without its tests."""
    for path in sorted(native.rglob("*.[ch]")):
        if not path.is_relative_to(native / "tests"):
            yield path
