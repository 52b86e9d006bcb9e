"""The compiled engine, as the tests run it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llmc.engine.build import build_native, compiler_for
from llmc.engine.toolchain import BINARY, Cpu, Mode
from tests.helpers.events import json_lines
from tests.helpers.programs import kept_programs

Flags = dict[str, Any]

# A batch of several sizes, and a run that does all that a run can do.
BATCH: Flags = {"batch_size": 3, "seq_len": 37}
ALL_EVENTS: Flags = {"val_every": 1, "sample_every": 1, "save_every": 1, "sample_tokens": 16}


@dataclass(frozen=True)
class Native:
    """Runs the engine; every flag is a keyword, with underscores for dashes.

    A list gives a flag several times.
    """

    binary: Path
    emulator: tuple[str, ...] = ()

    def argv(self, subcommand: str, **flags: object) -> list[str]:
        words = [*self.emulator, str(self.binary), subcommand]
        for name, value in flags.items():
            for each in value if isinstance(value, list) else [value]:
                words += [f"--{name.replace('_', '-')}", str(each)]
        return words

    def __call__(
        self,
        subcommand: str,
        *,
        isa: str | None = None,
        env: Mapping[str, str] | None = None,
        **flags: object,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(subcommand, **flags),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment(isa, env),
            timeout=300,
        )


def environment(isa: str | None = None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables, without a choice of instruction set that leaks in."""
    kept = {name: value for name, value in os.environ.items() if name != "LLMC_ISA"}
    return {**kept, **({"LLMC_ISA": isa} if isa else {}), **(env or {})}


def build(cache: Path) -> Native:
    """Compile the engine into the session's cache, unless it is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMC_CACHE_DIR", str(cache))
        return Native(build_native().path)


def build_sanitized(cache: Path) -> Native:
    """Compile the engine for this CPU with a sanitizer, unless it is there.

    Undefined behaviour raises SIGILL, without a message; ``llmc build --sanitize`` names the line.
    The sanitizer's own library and an optimised build would take four times as long to compile.
    """
    compiler = replace(compiler_for(Cpu.NATIVE), extra=("-O0", "-fsanitize-trap=undefined"))
    return Native(kept_programs(cache, compiler=compiler, mode=Mode.SANITIZE, tests=False)[BINARY])


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done


def refused(done: subprocess.CompletedProcess[str], *codes: int) -> str:
    """Hold a failed run to the rules: its code, no signal, one sentence, which is returned."""
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise AssertionError(f"{done.args} died of {name}: {done.stderr}")
    assert done.returncode in codes, (done.args, done.returncode, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), (done.args, done.stderr)
    return lines[0]


def plan_alone(native: Native, **flags: Any) -> dict[str, Any]:
    """Return what a run would take. It is allowed one byte: it plans, tells, and is refused."""
    done = native("train", events="json", steps=0, env={"LLMC_MEMORY": "1"}, **flags)
    assert "of memory, but only" in refused(done, 2)
    (start,) = json_lines(done.stdout)
    return start
