from __future__ import annotations

import pytest

from llmc.tokens.bpe import train_bpe
from llmc.tokens.tokenizer import (
    Tokenizer,
)
from tests.helpers.awkward import SOURCES


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(SOURCES, 600)
