"""How llmc is installed: the commands that a shell here can run."""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llmc import installation
from tests.helpers.places import ROOT


def put_program(path: Path) -> Path:
    """Write a program that a shell can run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment's folder of programs, below the current folder and not on PATH."""
    folder = tmp_path / ".venv" / "bin"
    for name in ("llmc", "pip"):
        put_program(folder / name)
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_distribution_is_the_one_that_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == installation.DISTRIBUTION
    assert set(project["scripts"]) == {"llmc"}


def test_a_program_on_path_is_its_name(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(scripts))
    assert installation.program() == "llmc"


def test_a_program_off_path_is_its_file(scripts: Path) -> None:
    assert installation.program() == ".venv/bin/llmc"
    done = subprocess.run(installation.program(), shell=True, capture_output=True, check=True)
    assert done.stdout == b"ran\n"


def test_another_program_of_the_name_is_not_taken(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = put_program(tmp_path / "other" / "llmc")
    monkeypatch.setenv("PATH", str(other.parent))
    assert installation.program() == ".venv/bin/llmc"
    other.unlink()
    other.symlink_to(scripts / "llmc")  # as uv and pipx install a command
    assert installation.program() == "llmc"


def test_elsewhere_the_file_is_named_in_full_and_quoted(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaced = put_program(tmp_path / "a b" / "llmc")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(spaced.parent))
    monkeypatch.chdir(scripts)
    assert shlex.split(installation.program()) == [str(spaced)]


def test_without_a_program_python_runs_it(scripts: Path) -> None:
    (scripts / "llmc").unlink()
    assert installation.program() == ".venv/bin/python -m llmc"


def test_extras_are_installed_from_the_clone(
    scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(installation.install_command("serve"))
    assert words == [".venv/bin/pip", "install", f"{ROOT}[serve]"]
    monkeypatch.chdir(ROOT)
    assert installation.install_command("serve").endswith("pip install '.[serve]'")


def test_extras_come_from_the_clone_that_a_wheel_was_built_from_or_else_from_pypi(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distribution:
        def read_text(self, _name: str) -> str:
            return f'{{"url": "file://{tmp_path}"}}'

    monkeypatch.setattr(installation, "__file__", "/site/llmc/installation.py")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: Distribution())
    assert installation.install_command("plot") == ".venv/bin/pip install 'llmc-train[plot]'"
    (tmp_path / "pyproject.toml").touch()
    assert installation.install_command("plot") == ".venv/bin/pip install '.[plot]'"


@pytest.mark.parametrize(("origin", "found"), [(None, "0.1.2"), ('{"url": "file:///x"}', None)])
def test_the_other_project_of_the_name_is_found(
    origin: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distribution:
        version = "0.1.2"

        def read_text(self, _name: str) -> str | None:
            return origin

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: Distribution())
    assert installation.other_llmc() == found


def test_no_other_project_is_found_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert installation.other_llmc() is None
