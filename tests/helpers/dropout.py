"""The engine's dropout for the PyTorch twin: the same numbers are dropped, by the same hash."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmc.check.torch_model import GPT2, Block
from llmc.config import TrainConfig

EMBEDDING, ATTPROJ, FCPROJ, ATTENTION = range(4)  # the places, as the engine numbers them
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
        """Return the factors of x (B,T,C), whose rows are its last dimension, or (B,NH,T,T)."""
        update = mix64(mix64(self.seed) + self.step & BITS_64)
        key = mix64(mix64(update + layer & BITS_64) + place & BITS_64)
        i: Words = np.arange(x.shape[-1], dtype=np.uint32)
        if place == ATTENTION:
            i = ((i << np.uint32(16))[:, None] + i).ravel()
        keys = [mix64(key + row & BITS_64) for row in range(x.numel() // i.size)]
        words = np.stack([random_words(each, i) for each in keys])
        kept = torch.from_numpy(words >= np.uint32(int(self.rate * 2**32)))
        return kept.reshape(x.shape).to(x.dtype) / (1 - self.rate)


def attention(masks: Masks, layer: int, heads: int, qkv: Tensor) -> Tensor:
    """Return causal attention (B,T,C) with dropped weights; see Block.attention."""
    B, T, C3 = qkv.shape
    q, k, v = qkv.view(B, T, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    y = (weights * masks.of(ATTENTION, layer, weights)) @ v
    out: Tensor = y.transpose(1, 2).reshape(B, T, C3 // 3)
    return out


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

        block.__dict__["attention"] = partial(attention, masks, layer, model.config.heads)

    def of_embedding(_: Any, inputs: tuple[Tensor]) -> Any:
        return inputs[0] * masks.of(EMBEDDING, 0, inputs[0])

    model.blocks[0].register_forward_pre_hook(of_embedding)
    return masks
