"""The flags of every source file, in both dialects, and the hash that names a build."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.engine import toolchain
from llmc.engine.isas import ISAS
from llmc.engine.toolchain import Compiler, Mode, Step
from llmc.errors import CompileFailed
from llmc.paths import shipped_dir

ZIG = Compiler(("zig", "cc"), is_zig=True, version="1")
CC = toolchain.c_compiler("gcc", "-Werror")


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A folder of C sources with everything that needs telling apart."""
    folder = tmp_path / "native"
    for name in ("kernels/isa", "ranks", "tests"):
        (folder / name).mkdir(parents=True)
    (folder / "main.c").write_text(
        "#ifndef LLMC_HAVE_GENERIC\n#error no generic table\n#endif\n"
        '#include "other.h"\nint main(void) { return other(); }\n'
    )
    (folder / "other.h").write_text("int other(void);\n")
    (folder / "other.c").write_text('#include "other.h"\nint other(void) { return 0; }\n')
    (folder / "plain.c").write_text("typedef int nothing;\n")
    (folder / "ranks" / "ranks_posix.c").write_text("typedef int nothing;\n")
    (folder / "ranks" / "ranks_win32.c").write_text("#error only for Windows\n")
    for isa in ISAS:
        (folder / "kernels" / "isa" / f"{isa}.c").write_text("typedef int nothing;\n")
    (folder / "kernels" / "gemm_tmpl.c").write_text("#error a template is never compiled alone\n")
    (folder / "tests" / "test_other.c").write_text(
        '#include "other.h"\nint main(void) { return other(); }\n'
    )
    return folder


def objects(
    native: Path, compiler: Compiler, machine: str, mode: Mode = Mode.RELEASE
) -> dict[str, Step]:
    compiler = replace(compiler, machine=machine)
    steps = toolchain.plan(compiler, native, Path("out"), mode=mode).objects
    return {str(step.source and step.source.relative_to(native)): step for step in steps}


def test_each_machine_gets_its_own_instruction_sets(native: Path) -> None:
    x86 = objects(native, ZIG, "x86_64")
    arm = objects(native, ZIG, "aarch64")
    other = objects(native, ZIG, "riscv64")
    assert {name for name in x86 if name.startswith("kernels/isa")} == {
        "kernels/isa/generic.c",
        "kernels/isa/blas.c",
        "kernels/isa/avx2.c",
        "kernels/isa/avx512.c",
        "kernels/isa/avx512bf16.c",
        "kernels/isa/amx.c",
        "kernels/isa/amxfp32.c",
    }
    assert {name for name in arm if name.startswith("kernels/isa")} == {
        "kernels/isa/generic.c",
        "kernels/isa/blas.c",
        "kernels/isa/neon.c",
        "kernels/isa/neonbf16.c",
        "kernels/isa/bfmmla.c",
        "kernels/isa/sme.c",
    }
    assert {name for name in other if name.startswith("kernels/isa")} == {
        "kernels/isa/generic.c",
        "kernels/isa/blas.c",
    }
    assert "-DLLMC_HAVE_AVX2" in x86["main.c"].argv
    assert "-DLLMC_HAVE_NEON" not in x86["main.c"].argv
    assert "-DLLMC_HAVE_NEON" in arm["main.c"].argv
    assert "-DLLMC_HAVE_AVX2" not in arm["main.c"].argv


def test_what_systems_differ_in_stands_in_two_files(native: Path) -> None:
    (native / "tests" / "test_forks_posix.c").write_text("int main(void) { return 0; }\n")
    for system, own, ending in (("linux", "posix", ""), ("windows", "win32", ".exe")):
        compiler = replace(ZIG, system=system)
        names = set(objects(native, compiler, "x86_64"))
        assert {name for name in names if name.startswith("ranks")} == {f"ranks/ranks_{own}.c"}
        (engine,) = toolchain.plan(compiler, native, Path("out")).links
        assert engine.output == Path("out", f"llmc-native{ending}")
        programs = toolchain.plan(compiler, native, Path("out"), tests=True).links
        assert {step.output.stem for step in programs} == {
            "test_other",
            *(["test_forks_posix"] if system == "linux" else []),
        }
    windows = replace(ZIG, system="windows")
    assert toolchain.build_key(ZIG, native) != toolchain.build_key(windows, native)


def test_every_shipped_pair_has_both_of_its_files() -> None:
    pairs = [p.relative_to(shipped_dir("native")) for p in shipped_dir("native").glob("base/*.c")]
    posix = {str(path)[: -len("_posix.c")] for path in pairs if path.stem.endswith("_posix")}
    win32 = {str(path)[: -len("_win32.c")] for path in pairs if path.stem.endswith("_win32")}
    assert posix and win32 - posix == {"base/wide"} and not posix - win32


def test_templates_and_test_programs_are_no_part_of_the_engine(native: Path) -> None:
    names = set(objects(native, ZIG, "x86_64"))
    assert not any(name.startswith(("kernels/gemm", "tests")) for name in names)
    assert {"main.c", "other.c", "plain.c"} <= names


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        (ZIG, {"kernels/isa/avx2.c": "-mcpu=x86_64_v3", "kernels/isa/avx512.c": "-mcpu=x86_64_v4"}),
        (
            CC,
            {"kernels/isa/avx2.c": "-march=x86-64-v3", "kernels/isa/avx512.c": "-march=x86-64-v4"},
        ),
    ],
)
def test_only_the_instruction_set_files_need_a_newer_cpu(
    native: Path, compiler: Compiler, flags: dict[str, str]
) -> None:
    for name, step in objects(native, compiler, "x86_64").items():
        cpu = [word for word in step.argv if word.startswith(("-mcpu=", "-march="))]
        if name in flags:
            assert cpu == [flags[name]]
        elif not name.startswith(("kernels/isa/avx", "kernels/isa/amx")):
            assert cpu == (["-mcpu=baseline"] if compiler.is_zig else [])
    wide = objects(native, compiler, "x86_64")["kernels/isa/avx512.c"].argv
    assert "-mprefer-vector-width=512" in wide


@pytest.mark.parametrize("compiler", [ZIG, CC])
@pytest.mark.parametrize("mode", Mode)
def test_no_build_is_unoptimised_or_takes_liberties_with_floats(
    native: Path, compiler: Compiler, mode: Mode
) -> None:
    for step in objects(native, compiler, "x86_64", mode=mode).values():
        levels = [word for word in step.argv if word.startswith("-O")]
        assert levels[0] == ("-O3" if mode is Mode.RELEASE else "-O1")
        assert not {"-Ofast", "-O0", "-ffast-math"} & set(step.argv)
        sanitized = [word for word in step.argv if word.startswith("-fsanitize=")]
        assert bool(sanitized) == (mode is Mode.SANITIZE)
        if compiler.is_zig and mode is not Mode.SANITIZE:
            assert "-fno-sanitize=all" in step.argv  # zig's default is seventy times slower


def test_the_modes_are_three(native: Path) -> None:
    assert len({toolchain.build_key(ZIG, native, mode) for mode in Mode}) == len(Mode) == 3


def test_an_instruction_set_without_flags_is_refused(native: Path) -> None:
    (native / "kernels" / "isa" / "sve2.c").write_text("typedef int nothing;\n")
    with pytest.raises(CompileFailed, match=r"sve2\.c has no row in the table"):
        toolchain.sources(native, "aarch64")


def test_a_folder_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileFailed, match="no C sources"):
        toolchain.sources(tmp_path, "x86_64")


def test_the_key_follows_what_the_binary_is_made_of(native: Path, tmp_path: Path) -> None:
    keys = [toolchain.build_key(ZIG, native)]
    (native / "other.h").write_text("int other(void); /* new */\n")
    keys.append(toolchain.build_key(ZIG, native))
    (native / "kernels" / "gemm_tmpl.c").write_text("#error changed\n")
    keys.append(toolchain.build_key(ZIG, native))
    (native / "other.c").rename(native / "another.c")
    keys.append(toolchain.build_key(ZIG, native))
    keys.append(toolchain.build_key(Compiler(("zig", "cc"), is_zig=True, version="2"), native))
    assert len(set(keys)) == len(keys)

    (native / "tests" / "test_other.c").write_text("int main(void) { return 1; }\n")
    moved = Path(shutil.copytree(native, tmp_path / "elsewhere"))
    assert toolchain.build_key(ZIG, moved) == keys[3]


def told(native: Path, compiler: Compiler = ZIG) -> str:
    """Return the number that the engine has for its sources."""
    steps = objects(native, compiler, toolchain.host_machine())
    having = {
        name: word
        for name, step in steps.items()
        for word in step.argv
        if word.startswith("-DLLMC_SOURCES=")
    }
    assert list(having) == ["ranks/ranks_posix.c"]
    return having["ranks/ranks_posix.c"]


def test_the_engine_knows_what_it_was_compiled_from(native: Path) -> None:
    numbers = [told(native)]
    assert numbers == [told(native, CC)] and numbers[0].endswith("u")
    (native / "tests" / "test_other.c").write_text("int main(void) { return 1; }\n")
    assert numbers == [told(native)]
    for name in ("other.h", "kernels/gemm_tmpl.c"):
        (native / name).write_text("int new_one(void);\n")
        numbers.append(told(native))
    (native / "plain.c").rename(native / "plainer.c")
    numbers.append(told(native))
    assert len(set(numbers)) == 4


def test_a_machine_of_another_kind_has_another_key(native: Path) -> None:
    other = replace(ZIG, machine="riscv64")
    assert ZIG.machine == toolchain.host_machine() != other.machine
    assert toolchain.build_key(ZIG, native) != toolchain.build_key(other, native)


def test_a_missing_compiler_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CompileFailed, match="pip install ziglang"):
        toolchain.zig()


@pytest.mark.parametrize("command", ["zig cc", "/opt/zig/zig cc", "python3 -m ziglang cc"])
def test_zig_by_another_name_is_still_zig(command: str) -> None:
    assert toolchain.c_compiler(command).is_zig
    assert not toolchain.c_compiler("gcc").is_zig


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("cc")), reason="no make or no cc")
def test_make_builds_with_the_systems_compiler(native: Path, tmp_path: Path) -> None:
    out = tmp_path / "objects"
    module = [sys.executable, "-m", "llmc.engine.makefile", "--cc", "cc", "--cflags=-Werror"]
    rules = subprocess.run(
        [*module, "--native", str(native), "--out", str(out)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    make = ["make", "-s", "-f", "-", "native", "native-tests"]
    subprocess.run(make, input=rules, text=True, check=True)
    every = {str(path) for path in toolchain.engine_files(native)}
    (needs,) = re.findall(r"ranks_ranks_posix\.o: (.*)", rules)
    assert set(needs.split()) == every  # it holds a hash of them all
    assert subprocess.run([out / "llmc-native"], check=False).returncode == 0
    assert subprocess.run([out / "test_other"], check=False).returncode == 0

    before = (out / "main.o").stat().st_mtime_ns, (out / "plain.o").stat().st_mtime_ns
    (native / "other.h").write_text("int other(void); /* every object may depend on it */\n")
    subprocess.run(make, input=rules, text=True, check=True)
    assert (out / "main.o").stat().st_mtime_ns > before[0]
    assert (out / "plain.o").stat().st_mtime_ns > before[1]


def test_every_shipped_instruction_set_has_flags() -> None:
    shipped = {path.stem for path in (shipped_dir("native") / "kernels" / "isa").glob("*.c")}
    assert "generic" in shipped
    assert shipped <= set(ISAS)
