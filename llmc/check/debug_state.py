"""Read what ``llmc-native debug-state`` writes for one batch, in llm.c's format.

``native/files/format.h`` is the source of truth for the layout.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.kinds import not_data
from llmc.model import ModelConfig, tensor_shapes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER_BYTES = 1024
MAGIC, VERSION = 20240327, 2
_AGAIN = "run 'llmc-native debug-state' again"


@dataclass(frozen=True)
class DebugState:
    """One batch with the model's logits, loss and gradients."""

    tokens: NDArray[np.int32]  # (B,T) int32
    targets: NDArray[np.int32]  # (B,T) int32
    logits: NDArray[np.float32]  # (B,T,V) float32
    loss: np.float32  # the mean over B·T, float32
    # Float32, with the names and shapes of the checkpoint's tensors.
    gradients: dict[str, NDArray[np.float32]]


def debug_state_bytes(B: int, T: int, config: ModelConfig) -> int:
    """Return the size of the debug state of a batch and a model."""
    gradients = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    return HEADER_BYTES + 4 * (2 * B * T + B * T * config.vocab_size + 1 + gradients)


def scan_debug_state(path: Path, name: str = "it") -> tuple[tuple[int, int] | None, list[str]]:
    """Read the header as far as it goes; the model's shape is not in it.

    Returns:
        B and T, or None if they cannot be used; and the problems of ``name``, a sentence each.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
        size = file.seek(0, 2)
    magic, version, B, T = struct.unpack("<4i", raw[:16].ljust(16, b"\0"))
    if magic != MAGIC:
        return None, [not_data(raw, name) or f"{name} is not a debug state"]
    if len(raw) < HEADER_BYTES:
        return None, [
            f"{name} is cut short: it has {len(raw)} bytes of its header's {HEADER_BYTES}; {_AGAIN}"
        ]
    if version != VERSION:
        return None, [f"{name} has version {version}, and only version {VERSION} is known"]
    if B < 1 or T < 1:
        return None, [f"{name} has a damaged header: a batch of {B} × {T}; {_AGAIN}"]
    if size < HEADER_BYTES + 8 * B * T + 8:
        return (B, T), [
            f"{name} is cut short: the batch alone takes {HEADER_BYTES + 8 * B * T:,} bytes, and "
            f"the logits, the loss and the gradients after it are missing; {_AGAIN}"
        ]
    return (B, T), []


def read_debug_state(path: Path, config: ModelConfig) -> DebugState:
    """Read the file of a model of this shape.

    Raises:
        BadData: it is not such a file, or of another model.
    """
    import numpy as np

    batch, problems = scan_debug_state(path, str(path))
    if batch is None or problems:
        raise BadData(problems[0])
    B, T = batch
    if path.stat().st_size != debug_state_bytes(B, T, config):
        raise BadData(f"{path} is not a debug state of this model; {_AGAIN}")
    raw = path.read_bytes()
    shapes = tensor_shapes(config)
    counts = [B * T * config.vocab_size, 1, *(math.prod(shape) for shape in shapes.values())]
    ids = np.frombuffer(raw, "<i4", 2 * B * T, HEADER_BYTES).reshape(2, B, T)
    values = np.frombuffer(raw, "<f4", offset=HEADER_BYTES + ids.nbytes)
    logits, loss, *flat = np.split(values, np.cumsum(counts)[:-1])
    gradients = {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), flat, strict=True)
    }
    return DebugState(ids[0], ids[1], logits.reshape(B, T, -1), loss[0], gradients)
