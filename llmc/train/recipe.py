"""The recipe for a model: its shape and its settings, by the text and the work there is time for.

The numbers come from runs of this engine, which ``docs/guide/recipes.md`` shows.
"""

from __future__ import annotations

import math
from typing import Any

from llmc.model import ModelConfig, parameter_count

# Layers and channels, from the smallest to GPT-2's own.
SIZES = (
    (2, 64),
    (3, 96),
    (4, 128),
    (5, 160),
    (6, 192),
    (6, 256),
    (8, 320),
    (8, 384),
    (8, 512),
    (10, 640),
    (12, 768),
)
HEAD, LARGE_HEAD, LARGE = 32, 64, 512  # channels of a head; of one in LARGE channels or more
MOST_CONTEXT = 256

# Loss in nats per token above the least possible, over parameters N and tokens D:
# ((A / N)**RATIO + B / D)**BETA, the form of Kaplan et al. (2020), equation 1.5. B is Muon's.
A, RATIO, B, BETA = 2.39e7, 0.808, 5.2e7, 0.234
# Passes over a text after which another makes the model worse: PASSES * (U / N)**FIT, for U tokens
# and N parameters in the blocks. A pass is worth 1/e of a new text after REST of these: the form
# of Muennighoff et al. (2023), equation 5.
PASSES, FIT, REST = 11.0, 0.25, 0.75
MOST_PASSES, FINETUNING_PASSES = 30, 3

# The peak rates at so many channels; they fall with the width.
RATES, RATE_CHANNELS = {"muon": 2.7e-3, "adamw": 1.8e-3}, 128
FINETUNED = 0.15  # of that rate, for trained weights
UPDATES = 8000  # of a run, about, unless that makes an update smaller or larger than
LEAST_UPDATE, MOST_UPDATE = 1024, 16384  # tokens
FEW_UPDATES, LEAST_OF_FEW = 250, 128  # a run has that many at least, of so many tokens at least
VALIDATIONS = 10


def shape_of(size: tuple[int, int], vocab_size: int, context: int) -> ModelConfig:
    """Return the model of one of ``SIZES``."""
    layers, channels = size
    head = HEAD if channels < LARGE else LARGE_HEAD
    return ModelConfig(layers, channels // head, channels, context, vocab_size)


def context_of(tokens: float) -> int:
    """Return T for training on so many tokens: short windows teach faster, long ones more."""
    return 64 if tokens < 5e6 else 128 if tokens < 5e7 else MOST_CONTEXT


def _passes(shape: ModelConfig, unique: int) -> float:
    in_blocks = 12 * shape.layers * shape.channels**2
    return PASSES * math.pow(unique / in_blocks, FIT)


def most_passes(shape: ModelConfig, unique: int, *, trained: bool = False) -> int:
    """Return after how many passes over so many tokens more make a model worse."""
    if trained:
        return FINETUNING_PASSES
    passes = _passes(shape, unique)
    return int(min(max(passes, 1), MOST_PASSES))


def worth(shape: ModelConfig, tokens: float, unique: int) -> float:
    """Return how many new tokens so many are worth, of which only ``unique`` are different."""
    rest = REST * _passes(shape, unique)
    again = max(tokens / unique - 1, 0)
    return min(tokens, unique) + unique * rest * (1 - math.exp(-again / rest))


def expected_loss(shape: ModelConfig, tokens: float, unique: int) -> float:
    """Return the loss above the least possible, in nats per token, by which shapes compare."""
    of_size = math.pow(A / parameter_count(shape), RATIO)
    return math.pow(of_size + B / max(worth(shape, tokens, unique), 1), BETA)


def settings_for(
    shape: ModelConfig, tokens: float, *, trained: bool = False, optimizer: str | None = None
) -> dict[str, Any]:
    """Return the training settings for so many tokens, but for what ends the run.

    ``trained`` weights are finetuned: in longer windows, at a small part of the rate. The optimizer
    is Muon, and AdamW for trained weights, unless it is named.
    """
    optimizer = optimizer or ("adamw" if trained else "muon")
    T = min(shape.context, MOST_CONTEXT if trained else context_of(tokens))
    few = max(_power_of_2(tokens / FEW_UPDATES), LEAST_OF_FEW)
    whole = max(_power_of_2(tokens / UPDATES), min(few, LEAST_UPDATE))
    update = max(min(whole, MOST_UPDATE) // T, 1) * T
    rows = min(update // T, 16)
    steps = tokens / update
    return {
        "batch_size": rows,
        "seq_len": T,
        "total_batch_size": update if update > rows * T else 0,
        "optimizer": optimizer,
        "lr": float(f"{rate_of(shape, optimizer) * (FINETUNED if trained else 1):.1e}"),
        "schedule": "wsd",
        "decay": 0.4,
        "warmup": min(max(round(0.02 * steps), 10), 200),
        "beta2": 0.99,
        "weight_decay": 0.1,
        "grad_clip": 1.0,
        "val_every": max(round(steps / VALIDATIONS), 1),
        "val_tokens": min(max(round(tokens * 0.015), 2048), 20480),  # a twentieth of the time
        "sample_every": max(round(steps / 5), 1),
        "patience": VALIDATIONS,  # ends no run, but keeps the best weights
    }


def _power_of_2(number: float) -> int:
    return int(2 ** round(math.log2(max(number, 1))))


def rate_of(shape: ModelConfig, optimizer: str) -> float:
    """Return the peak learning rate of a model that is trained from scratch."""
    return RATES[optimizer] * RATE_CHANNELS / shape.channels
