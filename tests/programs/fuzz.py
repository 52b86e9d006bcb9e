"""Fuzz the engine's readers: ``make fuzz``.

Each harness ``native/tests/fuzz/fuzz_*.c`` is linked with the engine, libFuzzer and the sanitizers
for addresses and undefined behaviour, and runs for a time on mutations of its seeds
(``native/tests/fuzz/seeds``, made by :mod:`tests.programs.fuzz_seeds`). What it finds stays in
``build/fuzz/findings``; the exit code is then 1.

It needs a clang with libFuzzer: that of ``CC``, or the newest one installed. Where there is none,
nothing is fuzzed, which is said and is not a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llmc.engine.isas import ISAS
from llmc.engine.toolchain import engine_files, host_machine, sources

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
HARNESSES = NATIVE / "tests" / "fuzz"
SEEDS = HARNESSES / "seeds"
OUT = ROOT / "build" / "fuzz"
SANITIZERS = "address,undefined,float-cast-overflow"
FLAGS = (
    *("-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-pthread", "-fno-math-errno", "-w"),
    *(f"-I{NATIVE}", f"-I{HARNESSES}", "-DLLMC_HAVE_GENERIC", "-fno-sanitize-recover=all"),
)
# What fuzz.h defines in place of the C library's: see there.
RENAMED = (
    *("exit", "atexit", "calloc", "strdup", "free"),
    *("pthread_create", "pthread_join"),
)
ENGINE_FLAGS = (
    *(f"-D{name}=fuzz_{name}" for name in RENAMED),
    "-D_exit=fuzz_exit",
    "-D_Exit=fuzz_exit",
)
OWN_FLAGS = {
    "util.c": ("-Dcrc32_update=fuzz_real_crc32_update",),
    "ranks_posix.c": ("-DLLMC_SOURCES=0",),
    "pool.c": ("-Dpool_zero=fuzz_real_pool_zero",),
}
REPLACED = ("main.c", "base/arena.c", "kernels/peak.c")  # fuzz.h has what the commands need of them
MOST_BYTES = 1 << 14
MEMORY_MB = 1500
STUCK_SECONDS = 20


def find_clang() -> str | None:
    """Return a clang that has libFuzzer: CC's, else the newest; None if there is none."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += sorted(Path("/usr/lib").glob("llvm-*/bin"), reverse=True)

    def age(path: Path) -> int:
        return -int("".join(re.findall(r"\d+", path.name)) or 999)

    named = {path for folder in folders for path in folder.glob("clang*")}
    clangs = (path for path in named if re.fullmatch(r"clang(-\d+)?", path.name))
    asked = os.environ.get("CC", "")
    found = [asked] if "clang" in asked else []
    return next(filter(has_fuzzer, [*found, *map(str, sorted(clangs, key=age))]), None)


def has_fuzzer(compiler: str) -> bool:
    """Return whether a compiler links a program with libFuzzer and the sanitizers."""
    code = (
        b"#include <stddef.h>\n"
        b"int LLVMFuzzerTestOneInput(const unsigned char *b, size_t n) { return !b && n; }\n"
    )
    argv = [*compiler.split(), f"-fsanitize=fuzzer,{SANITIZERS}", "-x", "c", "-", "-o", os.devnull]
    try:
        return subprocess.run(argv, input=code, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def build(clang: str, out: Path) -> dict[str, Path]:
    """Compile what is older than the sources; return the harnesses' programs by reader.

    Raises:
        subprocess.CalledProcessError: the compiler refused.
    """
    out.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in engine_files(NATIVE))
    newest_harness = max(path.stat().st_mtime for path in HARNESSES.glob("*.[ch]"))
    replaced = {NATIVE / name for name in REPLACED}
    other_isas = frozenset(ISAS) - {"generic"}
    engine = [p for p in sources(NATIVE, host_machine(), lacks=other_isas) if p not in replaced]
    harnesses = sorted(HARNESSES.glob("fuzz_*.c"))

    def run(output: Path, since: float, *words: str) -> Path:
        if not output.exists() or output.stat().st_mtime < since:
            subprocess.run([*clang.split(), *FLAGS, *words, "-o", str(output)], check=True)
        return output

    def compiled(source: Path) -> Path:
        name = source.relative_to(NATIVE).with_suffix(".o").as_posix().replace("/", "_")
        own = OWN_FLAGS.get(source.name, ())
        words = (*ENGINE_FLAGS, *own, f"-fsanitize=fuzzer-no-link,{SANITIZERS}", "-c", str(source))
        return run(out / name, newest, *words)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compiled, engine)]

        def linked(source: Path) -> Path:
            words = (f"-fsanitize=fuzzer,{SANITIZERS}", str(source), *objects, "-lm", "-ldl")
            return run(out / source.stem, max(newest, newest_harness), *words)

        programs = list(pool.map(linked, harnesses))
    return {path.name.removeprefix("fuzz_"): path for path in programs}


@dataclass(frozen=True)
class Outcome:
    """What came of fuzzing a reader."""

    reader: str
    executions: int
    seconds: int
    edges: int  # of the control flow, reached
    of: int  # edges in the program
    finding: str  # the first line of the report and the input's file; "": none

    @property
    def line(self) -> str:
        """One line of a table."""
        told = f"FOUND {self.finding}" if self.finding else "nothing found"
        return (
            f"{self.reader:12} {self.executions:>12,} executions {self.seconds:>6} s "
            f"{self.edges:>6,} of {self.of:,} edges  {told}"
        )


def outcome(reader: str, log: str, returncode: int) -> Outcome:
    """Read the log of a run of libFuzzer."""

    def last(pattern: str) -> int:
        return int((re.findall(pattern, log) or ["0"])[-1])

    found = ""
    if returncode != 0:
        report = re.search(r"(ERROR: .*|.*runtime error: .*)", log)
        kept = re.search(r"Test unit written to (.*)", log)
        found = " ".join(
            [report[1] if report else f"exit code {returncode}", kept[1] if kept else ""]
        )
    executions = last(r"stat::number_of_executed_units: +(\d+)")
    if returncode != 0:
        executions = max(executions, last(r"(?m)^#(\d+)"))
    return Outcome(
        reader,
        executions,
        last(r"(?m)^Done \d+ runs in (\d+) second"),
        last(r"cov: (\d+)"),
        last(r"\((\d+) inline 8-bit counters\)"),
        found,
    )


def fuzz(program: Path, reader: str, out: Path, *, seconds: int, runs: int, seed: int) -> Outcome:
    """Run a harness for a time, or so many executions; what it learns stays for the next time."""
    corpus, findings = out / "corpus" / reader, out / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        done = subprocess.run(
            [
                *(str(program), str(corpus), str(SEEDS / reader)),
                *(f"-max_total_time={seconds}", f"-runs={runs}", f"-seed={seed}"),
                *(f"-max_len={MOST_BYTES}", f"-rss_limit_mb={MEMORY_MB}"),
                *(f"-timeout={STUCK_SECONDS}", f"-artifact_prefix={findings}/{reader}-"),
                *("-close_fd_mask=3", "-print_final_stats=1"),
            ],
            env={**os.environ, "TMPDIR": scratch, "ASAN_OPTIONS": "detect_leaks=0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    log = done.stderr.decode(errors="replace")
    (out / f"{reader}.log").write_text(log)
    return outcome(reader, log, done.returncode)


def chosen(readers: list[str], programs: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Yield the readers asked for, all by default."""
    for reader in readers or programs:
        if reader not in programs:
            raise SystemExit(f"no reader {reader!r}; there are {', '.join(programs)}")
        yield reader, programs[reader]


def main() -> None:
    """Fuzz all readers, or some; print a line for each; exit with 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Fuzz the engine's readers with libFuzzer.")
    parser.add_argument("readers", nargs="*", help="which; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader (60)")
    parser.add_argument("--runs", type=int, default=-1, help="executions at most; -1: any number")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0: a new one")
    parser.add_argument("--out", type=Path, default=OUT, help="programs, corpora and findings")
    options = parser.parse_args()
    clang = find_clang()
    if clang is None:
        print("fuzz: skipped: no clang with libFuzzer is installed; install clang and compiler-rt")
        return
    programs = build(clang, options.out)
    outcomes = []
    for reader, program in chosen(options.readers, programs):
        limits = {"seconds": options.seconds, "runs": options.runs, "seed": options.seed}
        outcomes.append(fuzz(program, reader, options.out, **limits))
        print(outcomes[-1].line, flush=True)
    found = [each for each in outcomes if each.finding]
    total = sum(each.executions for each in outcomes)
    print(f"{total:,} executions, {len(found)} findings")
    if found:
        print(
            f"the inputs are in {options.out / 'findings'}; run a program of {options.out} on one"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
