"""The shapes that a model may have."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from llmc.errors import Usage
from llmc.model import MOST, ModelConfig
from tests.helpers.places import ROOT

# The engine's names of the limits.
ENGINE = {
    "layers": "LAYERS",
    "heads": "CHANNELS",
    "channels": "CHANNELS",
    "context": "CONTEXT",
    "vocab_size": "TOKENS",
}


def test_the_limits_are_the_engine_s() -> None:
    source = (ROOT / "native" / "files" / "checkpoint.c").read_text()
    found = dict(re.findall(r"MOST_(\w+) = 1 << (\d+)", source))
    assert {name: 1 << int(found[ENGINE[name]]) for name in MOST} == MOST
    assert MOST.keys() == asdict(ModelConfig()).keys()


@pytest.mark.parametrize("name", MOST)
def test_a_dimension_beyond_its_limit_is_refused(name: str) -> None:
    one = dict.fromkeys(MOST, 1)
    assert ModelConfig(**{**one, "channels": MOST["channels"]}).channels
    with pytest.raises(Usage, match=name):
        ModelConfig(**{**one, name: MOST[name] + 1})
