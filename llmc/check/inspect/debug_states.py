"""Debug states: one batch and a model's results for it; the model's shape is not in the file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from llmc.check.debug_state import (
    HEADER_BYTES,
    MAGIC,
    VERSION,
    debug_state_bytes,
    scan_debug_state,
)
from llmc.check.inspect.description import Description
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.reading import Asked
from llmc.check.inspect.tensors import moments, say_moments, say_shape
from llmc.errors import LlmcError
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.base import TensorPlace
from llmc.weights.checkpoint import read_header

MOST_NEIGHBOURS = 64
PUBLISHED = {
    "GPT-2 124M": ModelConfig(),
    "GPT-2 355M": ModelConfig(24, 16, 1024),
    "GPT-2 774M": ModelConfig(36, 20, 1280),
    "GPT-2 1558M": ModelConfig(48, 25, 1600),
}


def describe_debug_state(path: Path, asked: Asked) -> Description:
    """Describe a debug state; its model is looked for beside it and among GPT-2's four.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "debug_state", "debug state: what one batch does, llm.c's format")
    size = made.say_bytes()
    batch, problems = scan_debug_state(path)
    made.problems += problems
    made.note("magic", MAGIC)
    if batch is None:
        return made
    B, T = batch
    made.say("version", VERSION)
    made.say("batch", {"B": B, "T": T}, f"{B:,} rows of {T:,} tokens")
    if problems:
        return made
    for name, config in _candidates(path):
        if size == debug_state_bytes(B, T, config):
            made.say("model", name, f"{name}, which fits the size")
            say_shape(made, config)
            _say_values(made, asked, batch, config)
            return made
    made.say(
        "model",
        None,
        "not known: no checkpoint beside it and none of GPT-2's four sizes fits; "
        "whether it is whole cannot be checked",
    )
    if size % 4:
        made.wrong(f"it is cut short: {size:,} bytes are no whole number of 4-byte values")
    return made


def _candidates(path: Path) -> Iterator[tuple[str, ModelConfig]]:
    """Yield models that the state may belong to: the checkpoints beside it, then GPT-2's sizes."""
    for place in sorted(path.parent.iterdir())[:MOST_NEIGHBOURS]:
        try:
            if place.is_file() and kind_of(place) == "checkpoint":
                yield place.name, read_header(place).config
        except (OSError, LlmcError):
            continue
    yield from PUBLISHED.items()


def _say_values(
    made: Description, asked: Asked, batch: tuple[int, int], config: ModelConfig
) -> None:
    """Add the loss and check the ids; if asked for, the gradients' statistics."""
    import numpy as np

    reading, (B, T) = asked.reading, batch
    start = HEADER_BYTES
    high = low = 0
    for data in reading.pieces(made.path, start, start + 8 * B * T):
        ids = np.frombuffer(data[: len(data) // 4 * 4], "<i4")
        if ids.size:
            low, high = min(low, int(ids.min())), max(high, int(ids.max()))
    if low < 0 or high >= config.vocab_size:
        made.wrong(
            f"token {low if low < 0 else high} lies outside the vocabulary of {config.vocab_size:,}"
        )
    start += 8 * B * T + 4 * B * T * config.vocab_size
    loss = float(np.frombuffer(b"".join(reading.pieces(made.path, start, start + 4)), "<f4")[0])
    made.say("loss", loss, f"{loss:.6f}")
    if not math.isfinite(loss):
        made.wrong(f"its loss is {loss}")
    if not asked.tensors:
        return
    start += 4
    found = {}
    for name, shape in tensor_shapes(config).items():
        size = 4 * math.prod(shape)
        found[name] = moments(TensorPlace(made.path, "F32", shape, start, size), reading)
        start += size
    say_moments(made, tensor_shapes(config), found)
