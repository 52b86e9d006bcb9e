"""The shapes that a model may have."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from llmc.errors import Usage
from llmc.model import HIDDEN_MATRICES, MOST, ModelConfig, muon_flops, tensor_shapes
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


def test_the_operations_of_muon() -> None:
    """Of each matrix (m, n), the smaller side first; a symmetric product is half of one."""
    config = ModelConfig(layers=3, heads=2, channels=8, context=4, vocab_size=10)
    expected = 0
    for name, (layers, rows, columns) in (
        (name, shape) for name, shape in tensor_shapes(config).items() if name in HIDDEN_MATRICES
    ):
        count = layers * (3 if name == "qkvw" else 1)
        m, n = sorted((rows * layers // count, columns))
        if m == n:
            expected += count * 5 * (m**3 + m**3 + 2 * m**3)  # five steps: x xT, its square, p x
        else:  # steps 1 to 3, and 4 and 5: x xT and q x once, and two to four squares a step
            expected += count * (3 * m * m * n + (2 + 4 + 3) * m**3)
            expected += count * (3 * m * m * n + (2 + 3) * m**3)
    assert muon_flops(config) == expected
