from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.engine import Flags
from tests.helpers.models import RAGGED, save_model, training_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    """A model whose sizes are multiples of nothing, and tokens to train and validate on."""
    return training_files(tmp_path_factory.mktemp("files"), RAGGED)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.bin", RAGGED)
