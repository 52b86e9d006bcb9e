from __future__ import annotations

from pathlib import Path

import pytest

from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.conftest import Llmc
from tests.helpers.workspace import prepared_workspace, trained


@pytest.fixture(scope="module")
def byte() -> Tokenizer:
    return load_tokenizer("byte")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """A workspace with a dataset, a model and a run."""
    llmc = prepared_workspace(tmp_path_factory.mktemp("line"), cache)
    trained(llmc)
    return llmc
