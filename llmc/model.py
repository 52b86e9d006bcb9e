"""The shape of a GPT-2: its tensors, its parameters, and the operations that training it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from llmc.errors import Usage

# The largest dimensions, the same as in native/model/gpt2.h: far beyond any GPT-2, so that a file
# which claims more is damaged.
LARGEST = {
    "layers": 1 << 12,
    "heads": 1 << 20,
    "channels": 1 << 20,
    "context": 1 << 24,
    "vocab_size": 1 << 24,
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT-2: L layers of NH heads, C channels, maxT positions, V tokens."""

    layers: int = 12
    heads: int = 12
    channels: int = 768
    context: int = 1024
    vocab_size: int = 50257

    def __post_init__(self) -> None:
        """Refuse shapes that no GPT-2 has.

        Raises:
            Usage: a dimension is not positive or beyond ``LARGEST``, or the heads do not divide the
                channels.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if value < 1:
                raise Usage(f"the model's {item.name} must be at least 1, not {value}")
            if value > LARGEST[item.name]:
                raise Usage(
                    f"the model's {item.name} must be at most {LARGEST[item.name]:,}, not {value:,}"
                )
        if self.channels % self.heads:
            raise Usage(
                f"{self.heads} heads do not divide {self.channels} channels: "
                "choose channels as a multiple of heads"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Vp: V rounded up to a multiple of 128."""
        return -(-self.vocab_size // 128) * 128

    @property
    def shown(self) -> str:
        """The shape as words: 4 layers, 4 heads, …"""
        return (
            f"{self.layers} layers, {self.heads} heads, {self.channels} channels, "
            f"context {self.context}, vocabulary {self.vocab_size}"
        )


DIMENSIONS = tuple(item.name for item in fields(ModelConfig))


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the 16 tensors by name, in a checkpoint's order, row-major (out, in).

    ``wte`` has Vp rows (the vocabulary rounded up to 128); layers are stacked over L.
    """
    L, C = config.layers, config.channels
    return {
        "wte": (config.padded_vocab_size, C),
        "wpe": (config.context, C),
        "ln1w": (L, C),
        "ln1b": (L, C),
        "qkvw": (L, 3 * C, C),
        "qkvb": (L, 3 * C),
        "attprojw": (L, C, C),
        "attprojb": (L, C),
        "ln2w": (L, C),
        "ln2b": (L, C),
        "fcw": (L, 4 * C, C),
        "fcb": (L, 4 * C),
        "fcprojw": (L, C, 4 * C),
        "fcprojb": (L, C),
        "lnfw": (C,),
        "lnfb": (C,),
    }


# The weights that Muon updates: each layer's, qkvw as three matrices (C, C).
HIDDEN_MATRICES = ("qkvw", "attprojw", "fcw", "fcprojw")


def parameter_count(config: ModelConfig) -> int:
    """Return the number of parameters, without the padding of the vocabulary."""
    padding = (config.padded_vocab_size - config.vocab_size) * config.channels
    return sum(math.prod(shape) for shape in tensor_shapes(config).values()) - padding


def gemm_flops(M: int, N: int, K: int) -> float:
    """Return the operations of an (M, K) by (K, N) product; a multiply-add counts as two."""
    return 2.0 * M * N * K


def attention_flops(B: int, T: int, C: int) -> dict[str, float]:
    """Return the operations of one layer's attention, forward and backward.

    Only the half below the diagonal counts. Forward is two such products, backward five.
    """
    product = gemm_flops(B * T, T, C) / 2
    return {"attention_forward": 2 * product, "attention_backward": 5 * product}


def step_flops(config: ModelConfig, B: int, T: int) -> dict[str, float]:
    """Return the operations of a training step on (B, T) tokens, by the engine's kernel names."""
    L, C, BT = config.layers, config.channels, B * T
    qkv, attproj = L * gemm_flops(BT, 3 * C, C), L * gemm_flops(BT, C, C)
    fc = fcproj = L * gemm_flops(BT, 4 * C, C)
    head = gemm_flops(BT, config.padded_vocab_size, C)
    return {
        "linear_forward": qkv + head,
        "linear_residual": attproj + fcproj,
        "linear_gelu": fc,
        "linear_backward_input": qkv + attproj + fc + head,
        "linear_backward_gelu": fcproj,
        "linear_backward_weight": qkv + attproj + fc + fcproj + head,
        **{name: L * flops for name, flops in attention_flops(B, T, C).items()},
    }


def flops_per_token(config: ModelConfig, T: int) -> float:
    """Return the operations that training takes for one token of a row of T."""
    return sum(step_flops(config, 1, T).values()) / T


def muon_flops(config: ModelConfig) -> float:
    """Return the operations with which Muon orthogonalises the update of all hidden matrices.

    ``native/model/muon.c``: of a symmetric product, half. A square matrix takes five steps with a
    Gram matrix, its square and one more product; of the others, three and two steps at once take
    nine and five small products, a Gram matrix and one more product.
    """
    C = config.channels
    square = 5 * 2 * gemm_flops(C, C, C)
    small = (9 + 5) * gemm_flops(C, C, C) / 2
    long = small + 2 * (gemm_flops(C, C, 4 * C) / 2 + gemm_flops(C, C, 4 * C))
    return config.layers * (4 * square + 2 * long)
