"""The weights of a GPT-2 in a file of any format, and the number types of files.

Readers map one tensor at a time, so that a whole model is never in memory. The
names, shapes and orientation are llmc's (:func:`~llmc.model.tensor_shapes`): matrices
are (out, in), and ``wte`` has its V rows, without padding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from llmc.errors import BadData
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.checkpoint import (
    BF16,
    FINGERPRINT_BYTES,
    HEADER_BYTES,
    from_bf16,
    read_header,
    to_bf16,
    verify_checksum,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BLOCK_ELEMENTS = 1 << 22  # values converted and written at a time
UNSTACKED = ("wte", "wpe", "lnfw", "lnfb")

# Type in a file -> NumPy's type; bfloat16 is read as bits, Q8_0 as bytes.
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "Q8_0": "<u1"}
# Type on the command line -> type in a file.
KINDS = {"fp32": "F32", "bf16": "BF16", "f16": "F16", "q8_0": "Q8_0"}
Q8_BLOCK, Q8_BYTES = 32, 34  # 32 weights share a float16 scale
F16_MAX = 65504.0


# The keys under which safetensors and GGUF files keep a model's origin.
STEP, VAL_LOSS, TOKENIZER = "llmc.step", "llmc.val_loss", "llmc.tokenizer"


@dataclass(frozen=True)
class Origin:
    """Facts that are kept when weights change their format.

    Attributes:
        step: the training step at which they were saved; 0 if not known.
        val_loss: the validation loss at that step, if known.
        tokenizer: the 32 bytes of the tokenizer's fingerprint, if known.
    """

    step: int = 0
    val_loss: float | None = None
    tokenizer: bytes | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Origin:
        """Return the origin in a file's metadata; values that llmc did not write are ignored."""
        step, val_loss, tokenizer = 0, None, None
        with suppress(KeyError, ValueError, TypeError):
            step = max(0, int(metadata[STEP]))
        with suppress(KeyError, ValueError, TypeError):
            val_loss = float(metadata[VAL_LOSS])
        with suppress(KeyError, ValueError, TypeError):
            tokenizer = bytes.fromhex(metadata[TOKENIZER])
        known = tokenizer is not None and len(tokenizer) == FINGERPRINT_BYTES
        return cls(step, val_loss, tokenizer if known else None)


@dataclass(frozen=True)
class Stored:
    """One tensor, as a file stores it.

    Attributes:
        kind: a key of ``STORED``.
        values: memory-mapped; the first axis is the outputs. Q8_0 has rows of whole blocks, 34
            bytes for 32 weights.
    """

    kind: str
    values: NDArray[Any]

    def blocks(self) -> Iterator[Floats]:
        """Yield the tensor as float32, some rows at a time."""
        width = math.prod(self.values.shape[1:])
        rows = max(1, BLOCK_ELEMENTS // max(1, width))
        for start in range(0, len(self.values), rows):
            yield decoded(self.values[start : start + rows], self.kind)


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in a file.

    Attributes:
        path: the file.
        dtype: the type by its name in the file's format; a key of ``STORED`` if llmc reads it.
        shape: the shape as it is stored, the slowest dimension first.
        start: the first byte.
        size: the number of bytes.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def stored(self) -> Stored:
        """Return the tensor, memory-mapped; its type must be a key of ``STORED``."""
        import numpy as np

        shape = self.shape
        if self.dtype == "Q8_0":
            shape = (*shape[:-1], stored_bytes(shape[-1], "Q8_0"))
        return Stored(self.dtype, np.memmap(self.path, STORED[self.dtype], "r", self.start, shape))


class Weights(ABC):
    """A GPT-2 in a file. Opening it reads only headers and checks names, shapes and types.

    Attributes:
        path: the file, for messages.
        config: the model's shape.
        origin: the step, loss and tokenizer recorded in the file.
        notes: a sentence for each thing that the reader left out or changed.
    """

    path: Path
    config: ModelConfig
    origin: Origin = Origin()
    notes: tuple[str, ...] = ()

    @abstractmethod
    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer: (out, in) or (n,); ``wte`` has V rows."""

    def verify(self) -> None:  # noqa: B027 -- most formats have nothing to check
        """Check the data: a checksum, or a head that must equal the embedding.

        Raises:
            BadData: they differ.
        """

    def read(self, name: str, layer: int = 0) -> Floats:
        """Return one tensor of one layer as float32, memory-mapped if it is stored as float32."""
        stored = self.stored(name, layer)
        return decoded(stored.values, stored.kind)

    def slices(self) -> Iterator[tuple[str, Floats]]:
        """Yield names and float32 arrays for :func:`~llmc.weights.checkpoint.write_checkpoint`.

        A tensor comes as consecutive slices along its first axis: layers or rows.

        Raises:
            BadData: see :meth:`verify`.
        """
        self.verify()
        for name in tensor_shapes(self.config):
            if name in UNSTACKED:
                for block in self.stored(name).blocks():
                    yield name, block
            else:
                for layer in range(self.config.layers):
                    yield name, self.read(name, layer)[None]

    def tensors(self) -> Iterator[tuple[str, Floats]]:
        """Yield names and whole float32 arrays, layers stacked; ``wte`` has no padding rows.

        Raises:
            BadData: see :meth:`verify`.
        """
        import numpy as np

        self.verify()
        for name, shape in tensor_shapes(self.config).items():
            if name in UNSTACKED:
                yield name, self.read(name)
                continue
            stacked = np.empty(shape, np.float32)
            for layer in range(self.config.layers):
                stacked[layer] = self.read(name, layer)
            yield name, stacked


class TensorEntry(Protocol):
    """The type and shape of a tensor in a file."""

    @property
    def dtype(self) -> str:
        """The type, by its name in the format."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as it is stored."""


def check_tensors(
    path: Path,
    entries: Mapping[str, TensorEntry],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    optional: Collection[str],
    readable: Collection[str],
) -> None:
    """Check that a file has the tensors of a GPT-2 and no others.

    Args:
        path: the file, for messages.
        entries: the tensors of the file.
        shapes: the shapes that they must have.
        optional: names that may be missing.
        readable: types that llmc reads.

    Raises:
        BadData: a tensor is missing, is unknown, or has another shape or type.
    """
    for name in shapes:
        if name not in entries and name not in optional:
            raise BadData(f"{path} has no tensor {name}: it is not a whole GPT-2")
    for name, entry in entries.items():
        if name not in shapes:
            raise BadData(f"{path} has a tensor {name}, which a GPT-2 of its shape has not")
        if entry.shape != shapes[name]:
            raise BadData(
                f"{path}: {name} has the shape {entry.shape}, not {shapes[name]}; "
                "its configuration belongs to another model"
            )
        if entry.dtype not in readable:
            raise BadData(
                f"{path}: {name} is of type {entry.dtype}; llmc reads {', '.join(readable)}"
            )


class CheckpointModel(Weights):
    """llm.c's checkpoint, versions 1, 3 and 5, with llmc's extension or without."""

    def __init__(self, path: Path) -> None:
        """Read and check the header.

        Raises:
            MissingOutput: there is no such file.
            BadData: it is not a checkpoint, or a damaged one.
        """
        self.path = path
        self.header = read_header(path)
        self.config = self.header.config
        self.origin = Origin(self.header.step, self.header.val_loss, self.header.tokenizer)
        self._offsets: dict[str, int] = {}
        offset, width = HEADER_BYTES, 2 if self.header.version == BF16 else 4
        for name, shape in self.header.shapes.items():
            self._offsets[name] = offset
            offset += width * math.prod(shape)

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer, memory-mapped."""
        import numpy as np

        kind = "BF16" if self.header.version == BF16 else "F32"
        shape, offset = self.header.shapes[name], self._offsets[name]
        if name == "wte":
            shape = (self.config.vocab_size, self.config.channels)
        elif name not in UNSTACKED:
            shape = shape[1:]
            offset += layer * stored_bytes(math.prod(shape), kind)
        return Stored(kind, np.memmap(self.path, STORED[kind], "r", offset, shape))

    def verify(self) -> None:
        """Compare the payload with the checksum, if there is one.

        Raises:
            BadData: they differ.
        """
        verify_checksum(self.path, self.header)


def same(one: Stored, other: Stored) -> bool:
    """Return whether two tensors of one shape hold the same numbers."""
    import numpy as np

    return all(map(np.array_equal, one.blocks(), other.blocks()))


def stored_bytes(count: int, kind: str) -> int:
    """Return the bytes that ``count`` numbers take."""
    if kind == "Q8_0":
        return count // Q8_BLOCK * Q8_BYTES
    return count * {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}[kind]


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


def write_blocks(file: BinaryIO, blocks: Iterable[Floats], kind: str) -> None:
    """Write the numbers of a tensor, block by block.

    Raises:
        BadData: a number is too large for F16.
        OSError: the disk is full.
    """
    for block in blocks:
        file.write(encoded(block, kind).data)
