"""debug_state files: one batch and what a model makes of it; the model's shape is not in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from llmc.check.debug_state import HEADER_BYTES, MAGIC, VERSION
from llmc.check.inspect.checkpoints import say_shape, say_tensors
from llmc.check.inspect.description import Description, byte_count
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.reading import Asked, file_size, head_of
from llmc.check.inspect.statistics import Moments
from llmc.errors import LlmcError
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.checkpoint import read_header

MOST_NEIGHBOURS = 64
PUBLISHED = {
    "GPT-2 124M": ModelConfig(),
    "GPT-2 355M": ModelConfig(24, 16, 1024),
    "GPT-2 774M": ModelConfig(36, 20, 1280),
    "GPT-2 1558M": ModelConfig(48, 25, 1600),
}


def describe_debug_state(path: Path, asked: Asked) -> Description:
    """Describe a debug_state; its model is looked for beside it and among GPT-2's four.

    Raises:
        OSError: it cannot be read.
    """
    import numpy as np

    made = Description(path, "debug_state", "debug state: what one batch does, llm.c's format")
    raw, size = head_of(path, HEADER_BYTES), file_size(path)
    made.say("bytes", size, byte_count(size))
    if len(raw) < HEADER_BYTES:
        made.wrong(
            f"the header is cut short: {len(raw)} of its {HEADER_BYTES} bytes are there; "
            "run 'llmc-native debug-state' again"
        )
        return made
    version, B, T = np.frombuffer(raw, "<i4", 3, 4).tolist()
    made.note("magic", MAGIC)
    made.say("version", version)
    made.say("batch", {"B": B, "T": T}, f"{B:,} rows of {T:,} tokens")
    if version != VERSION:
        made.wrong(f"its version is {version}, and only version {VERSION} is known")
        return made
    if B < 1 or T < 1:
        made.wrong(f"its header is damaged: a batch of {B} × {T} is none")
        return made
    ids = 8 * B * T
    if size < HEADER_BYTES + ids + 8:
        made.wrong(
            f"it is cut short: the batch alone takes {HEADER_BYTES + ids:,} bytes, and the logits, "
            "the loss and the gradients after it are missing"
        )
        return made
    for name, config in _candidates(path):
        if size == expected_bytes(B, T, config):
            made.say("model", name, f"{name}, which fits the size")
            say_shape(made, config)
            _say_values(made, asked, B, T, config)
            return made
    made.say(
        "model",
        None,
        "not known: no checkpoint beside it and none of GPT-2's four sizes fits; "
        "whether it is whole cannot be told",
    )
    if size % 4:
        made.wrong(f"it is cut short: {size:,} bytes are no whole number of 4-byte values")
    return made


def expected_bytes(B: int, T: int, config: ModelConfig) -> int:
    """Return the size of the file of such a batch and model."""
    gradients = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    return HEADER_BYTES + 4 * (2 * B * T + B * T * config.vocab_size + 1 + gradients)


def _candidates(path: Path) -> Iterator[tuple[str, ModelConfig]]:
    """Yield models that the state may be of: the checkpoints in its folder, then GPT-2's sizes."""
    for place in sorted(path.parent.iterdir())[:MOST_NEIGHBOURS]:
        try:
            if place.is_file() and kind_of(place) == "checkpoint":
                yield place.name, read_header(place).config
        except (OSError, LlmcError):
            continue
    yield from PUBLISHED.items()


def _say_values(made: Description, asked: Asked, B: int, T: int, config: ModelConfig) -> None:
    """Say the loss and the ids, and where wanted the gradients' statistics."""
    import numpy as np

    reading = asked.reading
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
        found[name] = Moments()
        stop = start + 4 * math.prod(shape)
        for data in reading.pieces(made.path, start, stop):
            found[name].add(np.frombuffer(data[: len(data) // 4 * 4], "<f4"))
        start = stop
    say_tensors(made, tensor_shapes(config), found)
