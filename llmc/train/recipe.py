"""The recipe for a model: its shape and its settings, by the text and the work there is time for.

The numbers come from runs of this engine, which ``docs/guide/dial.md`` shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmc.model import ModelConfig, parameter_count

NAME = "dial"  # of the presets that follow from it

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

NEW, FINETUNING = "muon", "adamw"  # the optimizers

# Loss in nats per token over parameters N and tokens D, with the optimizer's B:
# LEAST + ((A / N)**RATIO + B / D)**BETA, the form of Kaplan et al. (2020), equation 1.5.
LEAST, A, RATIO, BETA = 1.03, 2.39e7, 0.808, 0.234
B = {"muon": 5.2e7, "adamw": 1.01e8}
# In windows of 64 tokens; in windows twice as long it is lower by so much.
WINDOW, LONGER = 64, 0.1
# A nat of it in bits per byte: its text has 3.15 bytes in a token.
BITS_PER_BYTE = 0.457
# By what texts were off: code of one project, English in reStructuredText, plays, German.
LOWEST, HIGHEST = 0.75, 1.3
# Passes over a text after which another makes the model worse: PASSES * (U / N)**FIT, for U tokens
# and N parameters in the blocks. A pass is worth 1/e of a new text after REST * U**FIT of them: the
# form of Muennighoff et al. (2023), equation 5. Then no size is much better on a small text.
PASSES = {"muon": 11.0, "adamw": 20.0}
FIT, REST = 0.25, 0.207
MOST_PASSES, FINETUNING_PASSES = 30, 3
# With time to spare, on so many different tokens: dropout, with which a model bears so many times
# the passes, and ends lower.
DROPOUT, DROPOUT_FROM, DROPOUT_PASSES = 0.1, 20_000, 2

# The peak rates: Muon's of so many updates, which falls with this power of more, whatever the
# width; AdamW's at so many channels, which falls with the width.
MUON_RATE, MUON_UPDATES, MUON_FALL = 5e-3, 2000, 0.4
ADAMW_RATE, RATE_CHANNELS = 1.8e-3, 128
FINETUNED = 0.15  # of that rate, for trained weights
UPDATES = 8000  # of a run, about, unless that makes an update smaller or larger than
LEAST_UPDATE, MOST_UPDATE = 1024, 16384  # tokens
FEW_UPDATES, LEAST_OF_FEW = 250, 128  # a run has that many at least, of so many tokens at least
MOST_ROWS = 16  # of a batch
VALIDATIONS = 10


def shape_of(size: tuple[int, int], vocab_size: int, context: int) -> ModelConfig:
    """Return the model of one of ``SIZES``."""
    layers, channels = size
    head = HEAD if channels < LARGE else LARGE_HEAD
    return ModelConfig(layers, channels // head, channels, context, vocab_size)


def context_of(tokens: float) -> int:
    """Return T for training on so many tokens: short windows teach faster, long ones more."""
    return 64 if tokens < 5e6 else 128 if tokens < 5e7 else MOST_CONTEXT


def most_passes(
    shape: ModelConfig, unique: int, *, trained: bool = False, optimizer: str = NEW
) -> int:
    """Return after how many passes over so many tokens more make a model worse."""
    if trained:
        return FINETUNING_PASSES
    in_blocks = 12 * shape.layers * shape.channels**2
    passes = PASSES[optimizer] * math.pow(unique / in_blocks, FIT)
    return int(min(max(passes, 1), MOST_PASSES))


def worth(tokens: float, unique: int) -> float:
    """Return how many new tokens so many are worth, of which only ``unique`` are different."""
    rest = REST * math.pow(unique, FIT)
    again = max(tokens / unique - 1, 0)
    return min(tokens, unique) + unique * rest * (1 - math.exp(-again / rest))


def expected_loss(
    shape: ModelConfig, tokens: float, unique: int, *, optimizer: str = NEW, T: int = WINDOW
) -> float:
    """Return the loss by which shapes compare, in nats per token of the text it is measured on.

    ``tokens`` are trained on, of which ``unique`` are different, in windows of T tokens or of the
    shape's context if that is less.
    """
    of_size = math.pow(A / parameter_count(shape), RATIO)
    of_text = B[optimizer] / max(worth(tokens, unique), 1)
    of_window = LONGER * math.log2(min(T, shape.context, MOST_CONTEXT) / WINDOW)
    return LEAST + math.pow(of_size + of_text, BETA) - of_window


def expected_bits_per_byte(loss: float) -> tuple[float, float]:
    """Return between which bits per byte a text is likely to end, by :func:`expected_loss`."""
    return loss * BITS_PER_BYTE * LOWEST, loss * BITS_PER_BYTE * HIGHEST


def dropout_for(unique: int) -> float:
    """Return the dropout on so many different tokens, where there is time to spare.

    The passes are then ``DROPOUT_PASSES`` times as many.
    """
    return DROPOUT if unique >= DROPOUT_FROM else 0.0


def optimizer_for(*, trained: bool) -> str:
    """Return the optimizer of new models, or of trained weights."""
    return FINETUNING if trained else NEW


def settings_for(
    shape: ModelConfig,
    tokens: float,
    *,
    trained: bool = False,
    optimizer: str | None = None,
    spare: bool = False,
    dropout: float = 0.0,
) -> dict[str, Any]:
    """Return the training settings for so many tokens, but for what ends the run.

    ``trained`` weights are finetuned: in longer windows, at a small part of the rate. The optimizer
    is Muon, and AdamW for trained weights, unless it is named. With time to ``spare``, updates are
    of half as many tokens: a text teaches more in more of them, and each takes its time.
    ``dropout`` is that of :func:`dropout_for`.
    """
    optimizer = optimizer or optimizer_for(trained=trained)
    T = min(shape.context, MOST_CONTEXT if trained else context_of(tokens))
    usual = tokens / DROPOUT_PASSES if dropout and not trained else tokens
    few = max(_power_of_2(usual / FEW_UPDATES), LEAST_OF_FEW)
    whole = max(_power_of_2(tokens / UPDATES), min(few, LEAST_UPDATE))
    whole = whole // 2 if spare else whole
    update = max(min(whole, MOST_UPDATE) // T, 1) * T
    rows = min(update // T, MOST_ROWS)
    steps = tokens / update
    return {
        "batch_size": rows,
        "seq_len": T,
        "total_batch_size": update if update > rows * T else 0,
        "optimizer": optimizer,
        "dropout": dropout,
        "lr": float(f"{rate_of(shape, optimizer, steps) * (FINETUNED if trained else 1):.1e}"),
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


def over_ranks(settings: Mapping[str, Any], ranks: int) -> dict[str, Any]:
    """Return the batch of each rank, and the tokens of an update, which stay about as many.

    An update has a row for each rank at least. One process keeps what it has.
    """
    if ranks == 1:
        return {}
    T = settings["seq_len"]
    rows = (settings["total_batch_size"] or settings["batch_size"] * T) // T
    each = max(round(rows / ranks), 1)
    size = next(size for size in range(min(each, MOST_ROWS), 0, -1) if each % size == 0)
    return {"batch_size": size, "total_batch_size": each * ranks * T}


def _power_of_2(number: float) -> int:
    return int(2 ** round(math.log2(max(number, 1))))


def rate_of(shape: ModelConfig, optimizer: str, updates: float) -> float:
    """Return the peak learning rate of a model that is trained from scratch in so many updates."""
    if optimizer == "muon":
        return MUON_RATE * min(math.pow(MUON_UPDATES / updates, MUON_FALL), 1)
    return ADAMW_RATE * RATE_CHANNELS / shape.channels
