"""Every command of the documentation runs, or is marked as one that needs more than a test has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.cli.catalogue import COMMANDS
from tests.helpers.documented import (
    MARKS,
    MPI,
    PAGES,
    SMALL,
    Block,
    blocks,
    llmc_calls,
    make_small,
    run,
    small,
    words_of,
)
from tests.helpers.places import ROOT


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small(tmp_path_factory.mktemp("small") / "small")


@pytest.fixture(scope="module")
def prepared(small_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the workspace that a page begins with: notes, the dataset stdlib, the run stdlib-1."""
    folder = tmp_path_factory.mktemp("documented") / "workspace"
    (folder / "notes" / "drafts").mkdir(parents=True)
    for n, page in enumerate(PAGES):
        shutil.copy(page, folder / "notes" / ("" if n % 4 else "drafts") / f"{n}-{page.name}")
    (folder / "notes" / "short.txt").write_text("A note.\n")
    with pytest.MonkeyPatch.context() as patch, small(small_folder):
        patch.chdir(folder)
        patch.setenv("LLMC_CACHE_DIR", str(cache))
        for words in (["prepare", "stdlib"], ["train", "--config", "python-stdlib"]):
            assert run([*words, "--quiet"]) == 0
    return folder


@pytest.fixture
def workspace(
    prepared: Path, small_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Copy the workspace and be there; ``llmc`` is on the PATH of the shell."""
    folder = shutil.copytree(prepared, tmp_path / "workspace")
    shim = tmp_path / "bin" / "llmc"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.helpers.documented "$@"\n')
    shim.chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("LLMC_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMC_CACHE_DIR", str(cache))
    monkeypatch.setenv("LLMC_RETRIES", "0")
    monkeypatch.setenv("HF_HOME", str(cache / "hub"))
    folders = [str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))  # pip's mpirun is beside python
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(SMALL, str(small_folder))
    monkeypatch.chdir(folder)
    return folder


def shells(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh"]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not b.marked for b in shells(page))], ids=named
)
def test_the_commands_of_a_page_run(
    page: Path,
    workspace: Path,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In order, in one workspace; those that a shell must read run in one."""
    mpi = shutil.which("mpirun")
    for block in shells(page):
        if block.marked or (block.needs_mpi and mpi is None):
            continue
        for command in block.commands():
            words = words_of(command)
            if words is None:
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", command],
                    stdin=subprocess.DEVNULL,
                    check=False,
                    timeout=120,
                )
                code = done.returncode
            else:
                with small(small_folder), Path(os.devnull).open() as nothing:
                    monkeypatch.setattr(sys, "stdin", nothing)
                    code = run(words)
            shown = capfd.readouterr()
            assert code == 0, f"{named(page)}:{block.line}: {command}\n{shown.out}{shown.err}"
    if mpi is None and any(block.needs_mpi for block in shells(page)):
        pytest.skip("blocks with ranks were left out: there is no mpirun")


@pytest.mark.parametrize("page", [page for page in PAGES if shells(page)], ids=named)
def test_the_options_of_marked_commands_exist(
    page: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for block in shells(page):
        if block.marked:
            for command in block.commands():
                for words in llmc_calls(command):
                    assert run([*words, "--help"]) == 0, f"{named(page)}:{block.line}: {command}"
                    assert "Usage" in capfd.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_block_is_run_or_says_why_not(page: Path) -> None:
    """Commands stand in blocks that a test runs; words after ``sh`` are one of the marks."""
    for block in blocks(page):
        place = f"{named(page)}:{block.line}"
        if block.language == "sh":
            known = not block.words or block.needs_mpi or block.marked
            assert known, (place, block.words, MPI, MARKS)
            assert block.words.strip() != "skip:", place
        else:
            assert not re.search(rf"^(\$ )?llmc ({'|'.join(COMMANDS)})\b", block.text, re.M), place
