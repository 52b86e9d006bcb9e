"""Read what ``llmc-native debug-state`` writes for one batch, in llm.c's format.

``native/files/format.h`` is the source of truth for the layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.model import ModelConfig, tensor_shapes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER_BYTES = 1024
MAGIC, VERSION = 20240327, 2


@dataclass(frozen=True)
class DebugState:
    """One batch with the model's logits, loss and gradients.

    Attributes:
        tokens: (B,T) int32.
        targets: (B,T) int32.
        logits: (B,T,V) float32.
        loss: the mean over B·T, float32.
        gradients: float32, with the names and shapes of the checkpoint's tensors.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    logits: NDArray[np.float32]
    loss: np.float32
    gradients: dict[str, NDArray[np.float32]]


def read_debug_state(path: Path, config: ModelConfig) -> DebugState:
    """Read the file of a model of this shape.

    Raises:
        BadData: it is not such a file, or of another model.
    """
    import numpy as np

    raw = path.read_bytes()
    magic, version, B, T = np.frombuffer(raw.ljust(16, b"\0"), "<i4", 4).tolist()
    shapes = tensor_shapes(config)
    counts = [B * T * config.vocab_size, 1, *(math.prod(shape) for shape in shapes.values())]
    expected = HEADER_BYTES + 4 * (2 * B * T + sum(counts))
    if (magic, version) != (MAGIC, VERSION) or len(raw) != expected:
        raise BadData(
            f"{path} is not a debug state of this model: run llmc-native debug-state again"
        )
    ids = np.frombuffer(raw, "<i4", 2 * B * T, HEADER_BYTES).reshape(2, B, T)
    values = np.frombuffer(raw, "<f4", offset=HEADER_BYTES + ids.nbytes)
    logits, loss, *flat = np.split(values, np.cumsum(counts)[:-1])
    gradients = {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), flat, strict=True)
    }
    return DebugState(ids[0], ids[1], logits.reshape(B, T, -1), loss[0], gradients)
