"""``llmc doctor`` on the machine: compiler, cache, workspace, memory, other packages."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from llmc.check import doctor
from llmc.check.doctor import CHECKS, Exam, State
from llmc.cli.context import Context
from llmc.engine import machine
from llmc.engine.machine import Memory
from llmc.errors import CompileFailed, ExitCode
from tests.conftest import Llmc
from tests.helpers.doctor import OF_THE_ENGINE, report, states
from tests.helpers.engine import Native


@pytest.fixture
def broken_zig(tmp_path: Path) -> dict[str, str]:
    """An environment in which the compiler is a program that fails."""
    package = tmp_path / "fake" / "ziglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    zig = package / "zig"
    zig.write_text("#!/bin/sh\necho 'error: no room on this planet' >&2\nexit 1\n")
    zig.chmod(0o755)
    path = os.pathsep.join([str(package.parent), *sys.path])
    return {"PYTHONPATH": path, "LLMC_CACHE_DIR": str(tmp_path / "empty-cache")}


def test_a_broken_compiler(llmc: Llmc, broken_zig: dict[str, str]) -> None:
    done = llmc("doctor", env=broken_zig)
    assert done.returncode == ExitCode.COMPILE
    marks = states(done.stdout)
    assert [name for name, mark in marks.items() if mark == "FAIL"] == ["compiler", "engine"]
    skipped = [name for name, mark in marks.items() if mark == "skip"]
    assert [name for name in skipped if name != "mpi"] == OF_THE_ENGINE  # there may be no mpirun
    assert "zig does not run: error: no room on this planet" in done.stdout
    assert "did not compile: error: no room on this planet" in done.stdout
    assert done.stdout.count("pip install --force-reinstall ziglang") == 2
    assert "checks failed (compiler, engine): the report says what to do" in done.stderr
    done = llmc("doctor", "--json", env=broken_zig)
    assert done.returncode == ExitCode.COMPILE
    result = json.loads(done.stdout)
    failed = [check for check in result["checks"] if check["state"] == "failed"]
    assert (result["ok"], [check["name"] for check in failed]) == (False, ["compiler", "engine"])


@pytest.mark.usefixtures("healthy")
def test_no_compiler(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(target: str | None = None) -> None:
        raise CompileFailed("the C compiler is missing: run 'pip install ziglang'")

    monkeypatch.setattr("llmc.engine.toolchain.zig", missing)
    found = report(here)
    assert found["compiler"].state is found["engine"].state is State.FAILED
    assert found["compiler"].code == ExitCode.COMPILE
    assert "pip install ziglang" in found["compiler"].found
    assert all(found[name].state is State.SKIPPED for name in OF_THE_ENGINE)


def test_a_cache_that_cannot_be_written(llmc: Llmc, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = llmc("doctor", env={"LLMC_CACHE_DIR": str(tmp_path / "file" / "cache")})
    assert done.returncode == ExitCode.BAD_DATA
    marks = states(done.stdout)
    assert [name for name, mark in marks.items() if mark == "FAIL"] == ["cache", "engine"]
    assert f"cannot write {tmp_path}/file/cache: Not a directory" in done.stdout
    assert "set LLMC_CACHE_DIR to another folder" in done.stdout


def test_a_workspace_that_cannot_be_written(llmc: Llmc, native: Native, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = llmc("doctor", "--workspace", tmp_path / "file")
    assert done.returncode == ExitCode.BAD_DATA
    assert [name for name, mark in states(done.stdout).items() if mark == "FAIL"] == ["workspace"]
    assert "choose another with --workspace" in done.stdout


@pytest.mark.usefixtures("healthy")
def test_a_workspace_that_is_not_there_yet(here: Context) -> None:
    assert CHECKS["workspace"](Exam(here.workspace)).state is State.OK
    assert not here.workspace.root.exists()


@pytest.mark.usefixtures("healthy")
def test_a_small_machine_is_warned(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_MEMORY", 2.3e9)
    monkeypatch.setattr(doctor, "NEEDED_DISK", 1e18)
    monkeypatch.setattr(machine, "memory", lambda _: Memory(4 * 10**9, 10**9))
    monkeypatch.setattr(machine, "huge_pages", lambda: "never")
    found = report(here, "memory", "huge pages", "cache", "workspace")
    warned = {name for name, it in found.items() if it.state is State.WARNING}
    assert warned == {"memory", "huge pages", "cache", "workspace"}
    assert found["memory"].found == "1.00 GB available to a run; the machine has 4.00 GB"
    assert "python-stdlib" in found["memory"].advice
    assert all(found[name].advice for name in warned)
    assert {it.state for name, it in found.items() if name not in warned} == {State.OK}


@pytest.mark.usefixtures("healthy")
def test_the_other_project_called_llmc_is_warned_of(
    here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CHECKS["package"](Exam(here.workspace)).state is State.OK
    monkeypatch.setattr(doctor, "other_llmc", lambda: "0.1.2")
    finding = CHECKS["package"](Exam(here.workspace))
    assert finding.state is State.WARNING
    assert "0.1.2" in finding.found and "pip uninstall llmc" in finding.advice
