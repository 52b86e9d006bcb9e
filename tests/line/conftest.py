from __future__ import annotations

import pytest

from tests.conftest import Llmc
from tests.helpers.past_runs import a_past_run


@pytest.fixture
def two(llmc: Llmc) -> Llmc:
    runs = llmc.workspace / "runs"
    a_past_run(runs, "slow", lift=1, updated=1e9)
    a_past_run(runs, "fast", updated=2e9)
    return llmc
