from __future__ import annotations

from pathlib import Path

import pytest

from llmc.check import doctor
from llmc.engine import machine
from tests.conftest import Llmc
from tests.helpers.past_runs import a_past_run
from tests.helpers.workspace import prepared_workspace, trained


@pytest.fixture
def two(llmc: Llmc) -> Llmc:
    runs = llmc.workspace / "runs"
    a_past_run(runs, "slow", lift=1, updated=1e9)
    a_past_run(runs, "fast", updated=2e9)
    return llmc


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """A workspace with a model that has learned a little of how UTF-8 goes."""
    llmc = prepared_workspace(tmp_path_factory.mktemp("sample") / "workspace", cache)
    trained(llmc, "--steps", "300", "--lr", "0.01", "--val-every", "0", run="first")
    return llmc


@pytest.fixture
def healthy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(cache))
    monkeypatch.delenv("LLMC_ISA", raising=False)
    monkeypatch.setattr(doctor, "NEEDED_MEMORY", 0)
    monkeypatch.setattr(doctor, "NEEDED_DISK", 0)
    monkeypatch.setattr(machine, "huge_pages", lambda: "madvise")
    monkeypatch.setattr(doctor, "other_llmc", lambda: None)
