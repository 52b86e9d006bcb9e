"""``llmc build``: one binary, compiled once, whoever else is compiling it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from llmc.engine import build as builder
from llmc.engine.build import (
    build_native,
    build_programs,
    check_private,
    compiler_for,
    ensure_native,
    native_binary,
)
from llmc.engine.toolchain import TARGETS, Compiler, Cpu, Mode, zig
from llmc.errors import BadData, CompileFailed, ExitCode, Usage
from llmc.report import Silent, Unit

MAIN = """
#include <limits.h>
#include <stdio.h>
#include "number.h"
int main(int count, char **words) {
  (void)words;
  int grown = INT_MAX;
  grown += count;  /* undefined: what a sanitizer stops at */
  printf("%d\\n", number());
  return grown == 0;
}
"""


@pytest.fixture(autouse=True)
def _in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(cache))


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A small engine, different in every test."""
    folder = tmp_path / "native"
    (folder / "tests").mkdir(parents=True)
    (folder / "main.c").write_text(MAIN)
    (folder / "number.h").write_text("int number(void);\n")
    (folder / "number.c").write_text(
        f'#include "number.h"\n/* {tmp_path} */\nint number(void) {{ return 7; }}\n'
    )
    (folder / "tests" / "test_number.c").write_text(
        '#include "number.h"\nint main(void) { return number() == 7 ? 0 : 1; }\n'
    )
    return folder


def said(binary: Path) -> str:
    return subprocess.run([binary], capture_output=True, text=True, check=True).stdout


def no_compiler(*_: object) -> None:
    raise AssertionError("the compiler ran")


def test_a_build_makes_a_program_and_a_second_one_does_nothing(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = build_native(native=native).path
    assert said(binary) == "7\n"
    assert [path.name for path in binary.parent.iterdir()] == ["llmc-native"]
    monkeypatch.setattr(builder, "run_quietly", no_compiler)
    assert build_native(native=native).path == binary


def test_a_build_returns_what_it_did(native: Path) -> None:
    first, second = build_native(native=native), build_native(native=native)
    assert first.compiled and first.seconds > 0
    assert (second.path, second.compiled) == (first.path, False)


def test_a_build_reports_the_files_that_are_compiled(native: Path) -> None:
    bars: list[tuple[int | None, str, list[int]]] = []

    class Bars(Silent):
        @contextmanager
        def bar(self, description: str, total: int | None = None, unit: Unit = "bytes") -> Any:
            bars.append((total, unit, []))
            yield lambda step, total=None: bars[-1][2].append(step)

    build_native(native=native, report=Bars())
    assert bars == [(2, "files", [1, 1])]


def test_a_changed_source_is_another_build(native: Path) -> None:
    first = build_native(native=native).path
    (native / "number.c").write_text('#include "number.h"\nint number(void) { return 8; }\n')
    second = build_native(native=native).path
    assert (said(first), said(second)) == ("7\n", "8\n")


def test_force_compiles_again(native: Path) -> None:
    binary = build_native(native=native).path
    before = binary.stat().st_ino
    assert build_native(native=native, force=True).path == binary
    assert binary.stat().st_ino != before
    assert said(binary) == "7\n"


def test_debug_keeps_symbols(native: Path) -> None:
    release = build_native(native=native).path
    debug = build_native(native=native, mode=Mode.DEBUG).path
    assert debug != release
    assert said(debug) == "7\n"


@pytest.mark.full  # zig compiles its sanitizer's library first: 20 seconds
def test_sanitize_stops_at_undefined_behaviour(native: Path) -> None:
    binary = build_native(native=native, mode=Mode.SANITIZE).path
    done = subprocess.run([binary], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "signed integer overflow" in done.stderr


def test_a_broken_source_is_one_clear_sentence(native: Path) -> None:
    (native / "number.c").write_text("int number(void) { return seven; }\n")
    with pytest.raises(CompileFailed) as caught:
        build_native(native=native)
    assert caught.value.exit_code == ExitCode.COMPILE
    message = str(caught.value)
    assert message.startswith("number.c did not compile: ")
    assert "seven" in message
    assert "\n" not in message
    assert list(native_binary(native=native).parent.iterdir()) == [], "something half-made is left"


def test_a_warning_fails_the_build(native: Path) -> None:
    (native / "number.c").write_text(
        '#include "number.h"\nint number(void) { int unused = 1; return 7; }\n'
    )
    with pytest.raises(CompileFailed, match="unused"):
        build_native(native=native)


def test_a_missing_function_fails_at_the_link(native: Path) -> None:
    (native / "number.c").write_text("typedef int nothing;\n")
    with pytest.raises(CompileFailed, match=r"llmc-native did not link: .*number"):
        build_native(native=native)


def test_a_cache_that_cannot_be_written_is_said_so(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(BadData, match="set LLMC_CACHE_DIR"):
        build_native(native=native)


BUILD_AT_ONCE = """
import sys
from pathlib import Path
from llmc.engine.build import build_native
print("ready", flush=True)
sys.stdin.readline()
print(build_native(native=Path(sys.argv[1]), force=True).path)
"""


def test_builds_at_once_do_not_collide(native: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD_AT_ONCE, str(native)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    paths = set()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, _ = racer.communicate(timeout=60)
        assert racer.returncode == 0
        paths.add(out)
    assert len(paths) == 1
    binary = Path(paths.pop().strip())
    assert said(binary) == "7\n"
    assert [path.name for path in binary.parent.iterdir()] == ["llmc-native"]


def test_who_waits_for_another_build_says_so(native: Path) -> None:
    notes: list[str] = []

    class Notes(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    binary = build_native(native=native).path
    binary.unlink()
    given: dict[str, Any] = {"native": native, "report": Notes()}
    waiting = threading.Thread(target=build_native, kwargs=given)
    with FileLock(binary.parent.with_name(f"{binary.parent.name}.lock")):
        waiting.start()
        deadline = time.monotonic() + 30
        while not notes and time.monotonic() < deadline:
            time.sleep(0.01)
        assert notes == ["another llmc is building the engine: waiting for it …"]
    waiting.join(60)
    assert binary.is_file()


def test_test_programs_are_linked_with_the_engine(native: Path, tmp_path: Path) -> None:
    (native / "tests" / "test_wrong.c").write_text(
        '#include "number.h"\nint main(void) { return number() == 8 ? 0 : 1; }\n'
    )
    right, wrong = build_programs(tmp_path / "programs", compiler=zig(), native=native, tests=True)
    assert (right.name, wrong.name) == ("test_number", "test_wrong")
    assert subprocess.run([right], check=False).returncode == 0
    assert subprocess.run([wrong], check=False).returncode == 1


@pytest.fixture
def cli(tmp_path: Path, native: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, with the small engine in place of the shipped one."""
    script = (
        "from pathlib import Path\nimport llmc.paths\nshipped = llmc.paths.shipped_dir\n"
        f"llmc.paths.shipped_dir = lambda name: Path({str(native)!r}) "
        "if name == 'native' else shipped(name)\n"
        "from llmc.cli.main import main; main()\n"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


# What a program begins with: ELF and its machine (2 bytes at 18), Mach-O of 64 bits and its CPU, or
# MZ, and the machine behind the signature of PE that bytes 60 to 63 point to.
MAGIC = {
    "x86_64-linux": (b"\x7fELF", 18, b"\x3e\x00"),
    "aarch64-linux": (b"\x7fELF", 18, b"\xb7\x00"),
    "x86_64-macos": (b"\xcf\xfa\xed\xfe", 4, b"\x07\x00\x00\x01"),
    "aarch64-macos": (b"\xcf\xfa\xed\xfe", 4, b"\x0c\x00\x00\x01"),
    "x86_64-windows": (b"MZ", None, b"PE\x00\x00\x64\x86"),
    "aarch64-windows": (b"MZ", None, b"PE\x00\x00\x64\xaa"),
}


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, marks=() if target == "aarch64-macos" else pytest.mark.full)
        for target in TARGETS
    ],
)
def test_a_build_for_another_target(target: str, native: Path) -> None:
    begin, at, machine = MAGIC["-".join(target.split("-")[:2])]
    binary = build_native(native=native, target=target).path
    assert binary != native_binary(native=native)
    assert binary.name == ("llmc-native.exe" if "windows" in target else "llmc-native")
    assert [path.name for path in binary.parent.iterdir()] == [binary.name]
    data = binary.read_bytes()
    at = int.from_bytes(data[60:64], "little") if at is None else at
    assert data.startswith(begin) and data[at:].startswith(machine)
    with pytest.raises(Usage, match="--cpu baseline"):
        build_native(native=native, target=target, cpu=Cpu.NATIVE)


@pytest.mark.full
@pytest.mark.parametrize("target", TARGETS)
def test_the_shipped_engine_compiles_for_every_target(target: str) -> None:
    assert build_native(target=target).path.is_file()


def test_the_command_prints_its_result(
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    first, second = cli("build", "--json"), cli("build", "--json")
    assert first.returncode == second.returncode == 0, first.stderr
    assert json.loads(first.stdout)["built"] is True
    assert json.loads(second.stdout)["built"] is False
    assert said(Path(json.loads(second.stdout)["binary"])) == "7\n"
    assert "up to date" in second.stderr
    assert "next: llmc prepare stdlib" in second.stderr


def test_the_command_exits_4_on_a_broken_source(
    cli: Callable[..., subprocess.CompletedProcess[str]], native: Path
) -> None:
    (native / "main.c").write_text("int main(void) { return }\n")
    done = cli("build")
    assert done.returncode == ExitCode.COMPILE
    assert "error: main.c did not compile: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_shipped_engine_compiles_without_a_warning() -> None:
    binary = ensure_native()
    done = subprocess.run([binary, "no-such-command"], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("error: ")
    assert native_binary(Mode.RELEASE) == binary


def test_only_known_cpus_are_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_CPU", "fast")
    with pytest.raises(Usage, match="LLMC_CPU must be baseline or native, not 'fast'"):
        native_binary()


@pytest.mark.full
def test_a_build_for_this_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One fast table, the one that the binary for every CPU chooses here; LLMC_CPU asks for it."""

    def tables(binary: Path) -> list[dict[str, Any]]:
        done = subprocess.run([binary, "isa"], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def unoptimised(cpu: Cpu, target: str | None = None) -> Compiler:
        return replace(compiler_for(cpu, target), extra=("-O0",))  # a third of the time

    baseline = ensure_native()
    monkeypatch.setattr(builder, "compiler_for", unoptimised)
    monkeypatch.setenv("LLMC_CPU", "native")
    native = ensure_native()
    assert native == build_native(cpu=Cpu.NATIVE).path == native_binary() != baseline
    names = [line["isa"] for line in tables(native) if line["event"] == "table"]
    assert len(names) == 2 and names[0] == "plain"
    assert tables(native)[-1] == tables(baseline)[-1]


@pytest.mark.parametrize("place", ["", "native", "native/key", "native/key/llmc-native"])
@pytest.mark.parametrize("mode", [0o002, 0o022])
def test_a_cache_that_others_can_write_is_refused(tmp_path: Path, place: str, mode: int) -> None:
    own = tmp_path / "cache"
    (own / "native" / "key").mkdir(parents=True)
    (own / "native" / "key" / "llmc-native").touch()
    binary = own / "native" / "key" / "llmc-native"
    for folder in (own, own / "native", own / "native" / "key", binary):
        folder.chmod(0o755)
    check_private(binary)
    check_private(own / "not" / "there" / "yet")
    (own / place).chmod(0o755 | mode)
    with pytest.raises(BadData, match=r"others?.* can write .*LLMC_CACHE_DIR"):
        check_private(binary)


def test_links_of_a_cache_are_looked_behind(tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    behind.mkdir()
    (tmp_path / "native").symlink_to(behind)
    check_private(tmp_path / "native" / "key")
    behind.chmod(0o777)
    with pytest.raises(BadData, match=str(behind)):
        check_private(tmp_path / "native" / "key")
    behind.chmod(0o1777)  # as /tmp is
    check_private(tmp_path / "native" / "key")


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_private(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    if tmp_path.stat().st_uid:
        with pytest.raises(BadData, match="can write"):
            check_private(tmp_path)


def test_an_engine_in_such_a_cache_is_not_run(
    tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(BadData, match="can write"):
        build_native(native=native)
