from __future__ import annotations

from pathlib import Path

import pytest

from llmc.fetch import network
from llmc.fetch.network import Patience


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMC_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retry without waiting; return the waits in seconds."""
    waited: list[float] = []
    monkeypatch.delenv("LLMC_RETRIES", raising=False)
    monkeypatch.setattr(network, "PATIENCE", Patience(sleep=waited.append))
    return waited


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place" / "x"
