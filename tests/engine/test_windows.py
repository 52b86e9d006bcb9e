"""The engine for Windows, compiled by zig and run by wine.

The ordinary tests compile its files. zig builds Windows' C library for the first program that it
links, which takes more than a minute, so only ``make test-full`` runs it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmc.check.tolerances import FORWARD_AND_BACKWARD
from llmc.engine.isas import ISAS
from llmc.engine.toolchain import BINARY, Step, host_machine, plan, zig
from llmc.paths import shipped_dir
from tests.helpers.engine import Flags, Native, environment, refused, succeeded
from tests.helpers.events import json_lines, steps_of, without_times
from tests.helpers.generate import line
from tests.helpers.isas import runnable_isas
from tests.helpers.models import RAGGED, training_files
from tests.helpers.programs import kept_programs

TARGET = "x86_64-windows-gnu"
# Debian and Ubuntu keep it there; their `wine` is a script that has something to say itself.
WINE = (
    shutil.which("wine64") or shutil.which("wine64", path="/usr/lib/wine") or shutil.which("wine")
)

needs_wine = pytest.mark.skipif(
    WINE is None or host_machine() != "x86_64",
    reason="the engine for Windows is compiled but not run: install wine, on x86-64",
)


@pytest.fixture(scope="module")
def wine(cache: Path) -> Iterator[str]:
    """Wine, with a Windows of its own that tests keep from one run to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINEPREFIX", str(cache.resolve() / "native" / "wine"))
        patch.setenv("WINEDEBUG", "-all")
        patch.delenv("DISPLAY", raising=False)
        subprocess.run([str(WINE), "wineboot"], capture_output=True, check=True, timeout=120)
        yield str(WINE)


@pytest.fixture(scope="module")
def release(cache: Path) -> dict[str, Path]:
    """The engine and the C test programs as ``llmc build --target`` compiles them."""
    compiler = zig(TARGET)
    return {
        **kept_programs(cache, compiler=compiler, tests=False),
        **kept_programs(cache, compiler=compiler),
    }


@pytest.fixture(scope="module")
def windows(release: dict[str, Path], wine: str) -> Native:
    return Native(release[f"{BINARY}.exe"], (wine,))


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    return {
        **training_files(tmp_path, RAGGED, 600),
        "batch_size": 2,
        "seq_len": 37,
        "steps": 6,
        "val_every": 2,
        "sample_every": 3,
        "save_every": 2,
        "lr": 1e-3,
        "dropout": 0.1,
        "grad_clip": 1,
    }


@pytest.mark.parametrize("target", [TARGET, "aarch64-windows-gnu"])
def test_it_compiles_without_a_warning(target: str, cache: Path, tmp_path: Path) -> None:
    """All but the instruction sets, which are the same on every system."""
    compiler = zig(target)
    quick = ("-O0", "-Wno-unused-command-line-argument")  # of a flag of zig's own
    compiler = replace(compiler, extra=(*compiler.extra, *quick), lacks=frozenset(ISAS))
    steps = plan(compiler, shipped_dir("native"), tmp_path).objects
    kept = str(cache / "zig")
    env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": kept}

    def compiled(step: Step) -> str:
        return subprocess.run(
            step.argv, capture_output=True, text=True, check=False, env=env
        ).stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert set(pool.map(compiled, steps)) == {""}
    assert {step.output.exists() for step in steps} == {True}


@needs_wine
@pytest.mark.full
def test_it_trains_as_the_host_does(
    windows: Native, native: Native, flags: Flags, tmp_path: Path
) -> None:
    """In a folder whose name is in no code page; and a run goes on there that began here."""
    here, there = tmp_path / "here", tmp_path / "Zürich 日本"
    for engine, out in ((native, here), (windows, there)):
        succeeded(engine("train", threads=2, out=out, isa="plain", **flags))
    assert sorted(p.relative_to(here) for p in here.rglob("*")) == sorted(
        p.relative_to(there) for p in there.rglob("*")
    )
    assert b"\r" not in (there / "metrics.jsonl").read_bytes()
    for hosts, ours in zip(steps_of(here), steps_of(there), strict=True):
        for name in ("train_loss", "grad_norm", "lr"):
            np.testing.assert_allclose(ours[name], hosts[name], rtol=FORWARD_AND_BACKWARD)

    moved = Path(shutil.copytree(here, tmp_path / "moved"))
    longer = {**flags, "steps": 9, "resume": 1}
    succeeded(native("train", out=here, isa="plain", **longer))
    succeeded(windows("train", out=moved, isa="plain", **longer))
    losses = [[step["train_loss"] for step in steps_of(out)] for out in (moved, here)]
    assert len(losses[0]) == 9
    np.testing.assert_allclose(losses[0], losses[1], rtol=FORWARD_AND_BACKWARD)


@needs_wine
@pytest.mark.full
def test_ctrl_c_ends_a_run_and_what_it_made_is_saved(
    windows: Native, flags: Flags, tmp_path: Path
) -> None:
    """And while it trains, another trainer is refused, and a reader sees the newest weights."""
    out = tmp_path / "run"
    endless = {**flags, "steps": 1_000_000, "save_every": 1}
    with subprocess.Popen(
        windows.argv("train", out=out, **endless),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as trainer:
        until = time.monotonic() + 60
        while not (out / "model.bin").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert "another llmc trains in" in refused(windows("train", out=out, **endless), 2)
        done = windows("sample", model=out / "model.bin", tokens=5)
        assert len(succeeded(done).stdout.split("\n")) == 6
        trainer.send_signal(signal.SIGINT)
        said, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 130, errors
    assert b"interrupted" in said.splitlines()[-1]
    (last, *_) = sorted((out / "checkpoints").iterdir(), reverse=True)
    assert {path.name for path in last.iterdir()} == {"model.bin", "state.bin"}
    assert not list(out.glob("*.lock")) and not list(out.rglob("*.part"))


@needs_wine
@pytest.mark.full
def test_patterns_arguments_and_refusals(
    windows: Native, native: Native, flags: Flags, tmp_path: Path
) -> None:
    for name in ("part_b.bin", "part_A.bin"):
        shutil.copy(flags["data"], tmp_path / name)
    once = {"model": flags["model"], "seq_len": 37, "isa": "plain", "events": "json"}
    pattern = tmp_path / "Part_?.b*"  # letters' cases are one there
    rows = succeeded(windows("eval", data=pattern, **once)).stdout
    both = succeeded(native("eval", data=tmp_path / "part_?.bin", **once)).stdout
    ours, hosts = json_lines(rows), json_lines(both)
    assert [line.get("at") for line in ours] == [line.get("at") for line in hosts]

    missing = windows("eval", data=tmp_path / "nothing_*.bin", **once)
    assert "there is no file" in refused(missing, 3)
    assert "is not a file" in refused(windows("eval", data=tmp_path, **once), 1)
    folders = windows("eval", data=tmp_path / "*" / "part_b.bin", **once)
    assert "patterns" in refused(folders, 1)
    alone = windows("ranks", env={"PMI_RANK": "0", "PMI_SIZE": "2"})
    assert "Linux and macOS alone" in refused(alone, 2)


@needs_wine
@pytest.mark.full
def test_generate_reads_pipes_and_files(
    windows: Native, native: Native, flags: Flags, tmp_path: Path
) -> None:
    lines = line("0", [1, 2], tokens=5) + line("1", [3], tokens=5).replace("\n", "\r\n")
    lines += line("2", range(9), tokens=5, temperature=0)
    (tmp_path / "requests").write_bytes(lines.encode())
    told = []
    for engine in (native, windows):
        argv = engine.argv("generate", model=flags["model"], slots=2)
        env = environment("plain")
        with (tmp_path / "requests").open("rb") as file:
            from_file = subprocess.run(
                argv, stdin=file, capture_output=True, check=False, env=env, timeout=60
            )
        piped = subprocess.run(
            argv, input=lines.encode(), capture_output=True, check=False, env=env, timeout=60
        )
        for done in (from_file, piped):
            assert done.returncode == 0, done.stderr
            told.append(
                [
                    (event["event"], event.get("id"), event.get("token"), event.get("reason"))
                    for event in json_lines(done.stdout.decode())
                ]
            )
    assert told[0] == told[1] == told[2] == told[3]
    assert [event for event in told[0] if event[0] == "end"] == [
        ("end", str(i), None, "length") for i in range(3)
    ]


@needs_wine
@pytest.mark.full
def test_its_programs_pass(release: dict[str, Path], wine: str) -> None:
    programs = [path for name, path in release.items() if name.startswith("test_")]
    assert len(programs) > 10
    for program in programs:
        done = subprocess.run(
            [wine, program],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "LLMC_TEST_EVERY": "5"},
        )
        assert done.returncode == 0, (program.name, done.stderr)
        assert "0 failed" in done.stdout


@needs_wine
@pytest.mark.full
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512bf16"])
def test_its_bits_are_those_of_linux(
    isa: str, windows: Native, cache: Path, flags: Flags, tmp_path: Path
) -> None:
    """With zig's C library there, musl: glibc's logarithm rounds otherwise in the last digit."""
    compiler = zig("x86_64-linux-musl")
    linux = Native(kept_programs(cache, compiler=compiler, tests=False)[BINARY])
    if isa not in runnable_isas(linux, tmp_path):
        pytest.skip(f"this machine cannot run {isa}")
    outs = [tmp_path / "linux", tmp_path / "windows"]
    for dtype in ("fp32", "bf16"):
        for engine, out, threads in zip((linux, windows), outs, (1, 3), strict=True):
            shutil.rmtree(out, ignore_errors=True)
            succeeded(engine("train", out=out, threads=threads, isa=isa, dtype=dtype, **flags))
        for name in ("model.bin", "best.bin", "checkpoints/00000006/model.bin"):
            assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), (dtype, name)
        moments = [(out / "checkpoints/00000006/state.bin").read_bytes()[1024:] for out in outs]
        assert moments[0] == moments[1]
        metrics = [without_times((out / "metrics.jsonl").read_text()) for out in outs]
        assert metrics[0] == metrics[1]
        words: Flags = {"model": outs[0] / "model.bin", "tokens": 60, "num_samples": 3, "isa": isa}
        texts = [engine("sample", dtype=dtype, **words) for engine in (linux, windows)]
        assert succeeded(texts[0]).stdout == succeeded(texts[1]).stdout
