"""The shapes that a model may have."""

from __future__ import annotations

import pytest

from llmc.errors import Usage
from llmc.model import HIDDEN_MATRICES, LARGEST, ModelConfig, muon_flops, tensor_shapes


@pytest.mark.parametrize("name", LARGEST)
def test_a_dimension_beyond_its_limit_is_refused(name: str) -> None:
    one = dict.fromkeys(LARGEST, 1)
    assert ModelConfig(**{**one, "channels": LARGEST["channels"]}).channels
    with pytest.raises(Usage, match=name):
        ModelConfig(**{**one, name: LARGEST[name] + 1})


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
