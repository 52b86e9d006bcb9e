from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmc.check import doctor
from llmc.engine import machine
from tests.conftest import Llmc
from tests.helpers.browsing import CHROMIUM, FLAGS
from tests.helpers.past_runs import a_past_run
from tests.helpers.served import Served, fake_server
from tests.helpers.workspace import prepared_workspace, trained

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run's folder, with losses that fell."""
    made = tmp_path_factory.mktemp("runs") / "parrot-1"
    made.mkdir()
    lines = [{"step": step, "train_loss": 5 - step / 50, "step_ms": 1.0} for step in range(100)]
    told = [*lines, {"step": 99, "val_loss": 3.25}]
    (made / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    return made


@pytest.fixture(scope="module")
def parrot_server(parrot: Path) -> Iterator[Served]:
    """Return a server of a model that repeats its prompt."""
    with fake_server(parrot, "--step-seconds", "0.005") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser that runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
