"""The number types of files: float32, float64, float16, bfloat16 and Q8_0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmc.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BLOCK_ELEMENTS = 1 << 22  # values converted and written at a time
# Type in a file -> NumPy's type; bfloat16 is read as bits, Q8_0 as bytes.
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "Q8_0": "<u1"}
# Type on the command line -> type in a file.
KINDS = {"fp32": "F32", "bf16": "BF16", "f16": "F16", "q8_0": "Q8_0"}
Q8_BLOCK, Q8_BYTES = 32, 34  # 32 weights share a float16 scale
F16_MAX = 65504.0


@dataclass(frozen=True)
class Stored:
    """One tensor, as a file stores it."""

    kind: str  # a key of ``STORED``
    # Memory-mapped; the first axis is the outputs. Q8_0 has rows of whole blocks, 34 bytes for 32
    # weights.
    values: NDArray[Any]

    def blocks(self) -> Iterator[Floats]:
        """Yield the tensor as float32, some rows at a time."""
        width = math.prod(self.values.shape[1:])
        rows = max(1, BLOCK_ELEMENTS // max(1, width))
        for start in range(0, len(self.values), rows):
            yield decoded(self.values[start : start + rows], self.kind)


def stored_bytes(count: int, kind: str) -> int:
    """Return the bytes that ``count`` numbers take."""
    if kind == "Q8_0":
        return count // Q8_BLOCK * Q8_BYTES
    return count * {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}[kind]


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """Round float32 to the bits of bfloat16, to the nearest, ties to even; a NaN stays a NaN."""
    import numpy as np

    bits = values.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bf16(bits: NDArray[np.uint16]) -> Floats:
    """Widen the bits of bfloat16 to float32, exactly."""
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)


def decoded(values: NDArray[Any], kind: str) -> Floats:
    """Return stored numbers as float32; only F64 is rounded."""
    import numpy as np

    if kind == "BF16":
        return from_bf16(np.asarray(values))
    if kind == "Q8_0":
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        widened: Floats = dequantize(np.asarray(values), GGMLQuantizationType.Q8_0)
        return widened
    return np.asarray(values).astype(np.float32, copy=False)


def encoded(values: Floats, kind: str) -> NDArray[Any]:
    """Return float32 numbers in a file's type, rounded to nearest, ties to even.

    Raises:
        BadData: a number is too large for F16.
    """
    import numpy as np

    if kind == "BF16":
        return to_bf16(np.ascontiguousarray(values)).astype("<u2", copy=False)
    if kind == "F16":
        with np.errstate(over="ignore"):
            half = values.astype("<f2", order="C")
        if (np.isinf(half) & np.isfinite(values)).any():
            raise BadData(
                f"a weight of {np.abs(values[np.isfinite(values)]).max():g} is more than f16 can "
                f"hold ({F16_MAX:g}): choose --dtype bf16 or fp32"
            )
        return half
    if kind == "Q8_0":
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import quantize

        quantized: NDArray[np.uint8] = quantize(values, GGMLQuantizationType.Q8_0)
        return quantized
    return np.ascontiguousarray(values, "<f4")


def write_blocks(
    write: Callable[[memoryview], object], blocks: Iterable[Floats], kind: str
) -> None:
    """Write the numbers of a tensor, block by block.

    Raises:
        BadData: a number is too large for F16.
        OSError: the disk is full.
    """
    for block in blocks:
        write(encoded(block, kind).data)
