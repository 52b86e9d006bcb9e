"""A model initialised as GPT-2 was, for training from scratch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.config import ModelConfig
from llmc.formats.checkpoint import tensor_shapes
from llmc.formats.weights import UNSTACKED, Stored, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

RESIDUAL = ("attprojw", "fcprojw")


class RandomModel(Weights):
    """Random weights, whose file is yet to be written. Out of order, they are all made at once."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        """Choose the shape and the seed; nothing is made yet."""
        self.path = Path("random")
        self.config = config
        self._seed = seed
        self._made: dict[str, Floats] = {}

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer."""
        self._made = self._made or dict(self.tensors())
        whole = self._made[name]
        return Stored("F32", whole if name in UNSTACKED else whole[layer])

    def tensors(self) -> Iterator[tuple[str, Floats]]:
        """Yield names and whole arrays, each made when it is asked for."""
        return random_tensors(self.config, self._seed)

    def slices(self) -> Iterator[tuple[str, Floats]]:
        """Yield names and whole arrays, each made when it is asked for."""
        return self.tensors()


def random_tensors(config: ModelConfig, seed: int) -> Iterator[tuple[str, Floats]]:
    """Yield a model initialised as GPT-2 was, one float32 tensor at a time, in the file's order.

    Matrices are normal with standard deviation 0.02, those that write to the residual stream
    0.02/sqrt(2L), since 2L of them add up there (Radford et al. 2019, section 2.3). Biases are
    zero, the layernorms' weights one. ``wte`` lacks its padding rows.
    """
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(seed))

    def normal(shape: tuple[int, ...], std: float) -> Floats:
        values = generator.standard_normal(shape, np.float32)
        values *= np.float32(std)
        return values

    for name, padded in tensor_shapes(config).items():
        shape = (config.vocab_size, config.channels) if name == "wte" else padded
        if name.endswith("b"):
            yield name, np.zeros(shape, np.float32)
        elif name.startswith("ln"):
            yield name, np.ones(shape, np.float32)
        else:
            yield (
                name,
                normal(shape, 0.02 / math.sqrt(2 * config.layers if name in RESIDUAL else 1)),
            )
