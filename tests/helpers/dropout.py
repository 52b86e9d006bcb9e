"""The engine's dropout for the PyTorch twin: the same numbers are dropped, by the same hash."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmc.check.torch_model import GPT2, Block
from llmc.config import TrainConfig

EMBEDDING, ATTPROJ, FCPROJ = range(3)  # the places, as the engine numbers them
BITS_32, BITS_64 = 2**32 - 1, 2**64 - 1

Words = NDArray[np.uint32]


def mix64(x: int) -> int:
    """Return a well-mixed number: SplitMix64's finaliser."""
    x = (x + 0x9E3779B97F4A7C15) & BITS_64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & BITS_64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & BITS_64
    return x ^ x >> 31


def random_words(row: int, i: Words) -> Words:
    """Return the random bits of the numbers i of a row, by its key."""
    half, less = np.uint32(16), np.uint32(15)
    x: Words = i + np.uint32(row & BITS_32)
    x = (x ^ (x >> half)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> less)) + np.uint32(row >> 32)
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> half)


class Masks:
    """What the numbers of the twin are multiplied by in update ``step``, counted from 0."""

    def __init__(self, train: TrainConfig) -> None:
        self.rate, self.seed, self.step = train.dropout, train.seed, 0

    def of(self, place: int, layer: int, x: Tensor) -> Tensor:
        """Return the factors of x, whose last dimension is a row."""
        update = mix64(mix64(self.seed) + self.step & BITS_64)
        key = mix64(mix64(update + layer & BITS_64) + place & BITS_64)
        width = x.shape[-1]
        i = np.arange(width, dtype=np.uint32)
        keys = [mix64(key + row & BITS_64) for row in range(x.numel() // width)]
        words = np.stack([random_words(each, i) for each in keys])
        kept = torch.from_numpy(words >= np.uint32(int(self.rate * 2**32)))
        return kept.reshape(x.shape).to(x.dtype) / (1 - self.rate)


def drop_in(model: GPT2, train: TrainConfig) -> Masks:
    """Make a twin drop what the engine drops; return the masks, whose step is to be kept up."""
    masks = Masks(train)
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        for place, module in ((ATTPROJ, block.attproj), (FCPROJ, block.fcproj)):

            def of_branch(
                _: Any, __: Any, x: Tensor, place: int = place, layer: int = layer
            ) -> Any:
                return x * masks.of(place, layer, x)

            module.register_forward_hook(of_branch)

    def of_embedding(_: Any, inputs: tuple[Tensor]) -> Any:
        return inputs[0] * masks.of(EMBEDDING, 0, inputs[0])

    model.blocks[0].register_forward_pre_hook(of_embedding)
    return masks
