"""The weights of a GPT-2 in a file of any format.

Readers map one tensor at a time, so that a whole model is never in memory. The
names, shapes and orientation are llmc's (:func:`~llmc.model.tensor_shapes`): matrices
are (out, in), and ``wte`` has its V rows, without padding.
"""

from __future__ import annotations

import math
import os
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Protocol

from llmc.errors import BadData
from llmc.kinds import DAMAGE
from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.tokenizer_json import Unheld
from llmc.weights.number_types import STORED, Stored, decoded, stored_bytes

if TYPE_CHECKING:
    from llmc.weights.number_types import Floats

PIECE_BYTES = 1 << 24  # read at a time to compute a checksum
UNSTACKED = ("wte", "wpe", "lnfw", "lnfb")
FINGERPRINT_BYTES = 32
MOST_LOSS = 1e30  # a header holds a float32

# The keys under which safetensors and GGUF files keep a model's origin.
STEP, VAL_LOSS, TOKENIZER = "llmc.step", "llmc.val_loss", "llmc.tokenizer"


@dataclass(frozen=True)
class Origin:
    """Facts that are kept when weights change their format."""

    step: int = 0  # the training step at which they were saved; 0 if not known
    val_loss: float | None = None  # the validation loss at that step, if known
    tokenizer: bytes | None = None  # the 32 bytes of the tokenizer's fingerprint, if known

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Origin:
        """Return the origin in a file's metadata; values that llmc did not write are ignored."""
        step, val_loss, tokenizer = 0, math.inf, None
        with suppress(*DAMAGE):
            step = int(metadata[STEP])
        with suppress(*DAMAGE):
            val_loss = float(metadata[VAL_LOSS])
        with suppress(*DAMAGE):
            tokenizer = bytes.fromhex(metadata[TOKENIZER])
        known = tokenizer is not None and len(tokenizer) == FINGERPRINT_BYTES
        return cls.possible(step, val_loss, tokenizer if known else None)

    @classmethod
    def possible(cls, step: int, val_loss: float, tokenizer: bytes | None = None) -> Origin:
        """Return the origin without a step or a loss that no run has."""
        is_loss = abs(val_loss) < MOST_LOSS
        return cls(step if 0 <= step < 2**32 else 0, val_loss if is_loss else None, tokenizer)

    def metadata(self) -> dict[str, int | float | str]:
        """Return the known facts under the keys of a file's metadata."""
        known: dict[str, int | float | str] = {STEP: self.step} if self.step else {}
        if self.val_loss is not None:
            known[VAL_LOSS] = self.val_loss
        if self.tokenizer is not None:
            known[TOKENIZER] = self.tokenizer.hex()
        return known


class Tensor(Protocol):
    """A tensor in a file."""

    @property
    def dtype(self) -> str:
        """The type by its name in the format."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as it is stored."""

    def stored(self) -> Stored:
        """Return the numbers."""


class HeldFile:
    """A file that stays the same one where another gets its name, as each save of a run does."""

    def __init__(self, path: Path) -> None:
        """Open it until this object is gone."""
        self._number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._number)

    def open(self) -> BinaryIO:
        """Return it for reading, from its first byte on."""
        file = open(self._number, "rb", closefd=False)  # noqa: SIM115 -- a number
        file.seek(0)
        return file


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in a file."""

    path: Path  # the file
    dtype: str  # the type by its name in the file's format; a key of ``STORED`` if llmc reads it
    shape: tuple[int, ...]  # the shape as it is stored, the slowest dimension first
    start: int  # the first byte
    size: int  # the number of bytes

    def stored(self, held: HeldFile | None = None) -> Stored:
        """Return the tensor, memory-mapped; its type must be a key of ``STORED``.

        It is read from the file ``held``, if that is given.
        """
        import numpy as np

        shape = self.shape
        if self.dtype == "Q8_0":
            shape = (*shape[:-1], stored_bytes(shape[-1], "Q8_0"))
        file = self.path if held is None else held.open()
        return Stored(self.dtype, np.memmap(file, STORED[self.dtype], "r", self.start, shape))


def consecutive(
    path: Path, kind: str, shapes: Mapping[str, tuple[int, ...]], start: int
) -> dict[str, TensorPlace]:
    """Return the places of tensors of one type that follow each other from ``start`` on."""
    places = {}
    for name, shape in shapes.items():
        places[name] = TensorPlace(path, kind, shape, start, stored_bytes(math.prod(shape), kind))
        start += places[name].size
    return places


class Weights(ABC):
    """A GPT-2 in a file. Opening it reads only headers and checks names, shapes and types."""

    path: Path  # the file, for messages
    config: ModelConfig  # the model's shape
    origin: Origin = Origin()  # the step, loss and tokenizer recorded in the file
    notes: tuple[str, ...] = ()  # a sentence for each thing that the reader left out or changed

    @abstractmethod
    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer: (out, in) or (n,); ``wte`` has V rows."""

    def verify(self) -> None:  # noqa: B027 -- most formats have nothing to check
        """Check the data: a checksum, or a head that must equal the embedding.

        Raises:
            BadData: they differ.
        """

    def tokenizer(self) -> Tokenizer | Unheld | None:
        """Return the tokenizer that came with the weights; None if none did.

        Raises:
            BadData: it is damaged.
        """
        return None

    def chat_template(self) -> str | None:
        """Return the text of the chat template that came with the weights; None if none did."""
        return None

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
        for name in tensor_shapes(self.config):
            if name in UNSTACKED:
                yield name, self.read(name)
            else:
                yield name, np.stack([self.read(name, i) for i in range(self.config.layers)])


class NamedWeights(Weights):
    """A GPT-2 whose file has a tensor per layer under a name of its own.

    A subclass sets the table of names and calls :meth:`check` before anything is read.
    """

    entries: Mapping[str, Tensor]  # the tensors of the file by name
    names: ClassVar[Mapping[str, str]]  # the file's names by llmc's; ``{}`` takes the layer
    # The file's name of the output matrix. A file may repeat the embedding there.
    head: ClassVar[str]
    readable: ClassVar[Collection[str]]  # the types that llmc reads
    layers_in: ClassVar[str]  # what records the number of layers, for a message

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer, memory-mapped if the file allows."""
        return self.entries[self.names[name].format(layer)].stored()

    def stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in the file of a tensor that has ``shape`` in llmc."""
        del name
        return shape

    def check(self, *, biases: bool = True) -> None:
        """Check that the file has the tensors of a GPT-2 of this shape and no others.

        Raises:
            BadData: a tensor other than the head is missing (without ``biases`` they may be too),
                one is unknown, or one has another shape or type.
        """
        path = self.path
        if self.config.layers > len(self.entries):  # before a list of all their names is made
            raise BadData(f"{path} lacks layers: {self.layers_in} {self.config.layers:,}")
        shapes = {
            self.names[name].format(layer): self.stored_shape(name, shape)
            for name, layer, shape in layer_shapes(self.config)
        }
        shapes[self.head] = shapes[self.names["wte"]]
        for name in shapes:
            needed = name != self.head and (biases or not name.endswith(".bias"))
            if needed and name not in self.entries:
                raise BadData(f"{path} has no tensor {name}: it is not a whole GPT-2")
        for name, entry in self.entries.items():
            if name not in shapes:
                raise BadData(f"{path} has a tensor {name}, which a GPT-2 of its shape has not")
            if entry.shape != shapes[name]:
                raise BadData(
                    f"{path}: {name} has the shape {entry.shape}, not {shapes[name]}; "
                    "its configuration belongs to another model"
                )
            if entry.dtype not in self.readable:
                raise BadData(
                    f"{path}: {name} is of type {entry.dtype}; llmc reads "
                    f"{', '.join(self.readable)}"
                )

    def verify(self) -> None:
        """Compare the head with the token embedding, if the file has both.

        Raises:
            BadData: they differ.
        """
        import numpy as np

        if self.head not in self.entries:
            return
        wte = self.names["wte"]
        pairs = (self.entries[name].stored().blocks() for name in (self.head, wte))
        if not all(map(np.array_equal, *pairs)):
            raise BadData(
                f"{self.path}: {self.head} differs from {wte}, but GPT-2 ties them: this is "
                "another model"
            )


def layer_shapes(config: ModelConfig) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Yield name, layer and shape of every tensor in the order of other programs' files.

    The embeddings come first, then layer after layer, then the last layernorm. ``wte`` has V rows.
    """
    shapes = tensor_shapes(config) | {"wte": (config.vocab_size, config.channels)}
    for name in ("wte", "wpe"):
        yield name, 0, shapes[name]
    for layer in range(config.layers):
        for name, shape in shapes.items():
            if name not in UNSTACKED:
                yield name, layer, shape[1:]
    for name in ("lnfw", "lnfb"):
        yield name, 0, shapes[name]


def cut_short(name: str, entries: Mapping[str, TensorPlace], size: int) -> str | None:
    """Return a sentence about the tensors that a file of ``size`` bytes lacks; None if none."""
    ends = [entry.start + entry.size for entry in entries.values()]
    end = max(ends, default=0)
    if end <= size:
        return None
    return (
        f"{name} is cut short: {end - size:,} bytes are missing, and with them all or part of "
        f"{sum(each > size for each in ends):,} of {len(entries):,} tensors"
    )


def header_crc(raw: bytes, at: int) -> int:
    """Return the CRC-32 of a header, its int ``at``, where the checksum stands, taken as 0."""
    return zlib.crc32(raw[: 4 * at] + bytes(4) + raw[4 * at + 4 :])


def header_problem(raw: bytes, at: int, *, has_one: bool) -> str | None:
    """Return what is wrong with a header whose int ``at`` is its checksum, or 0 without one."""
    told, crc = int.from_bytes(raw[4 * at : 4 * at + 4], "little"), header_crc(raw, at)
    if told == (crc if has_one else 0):
        return None
    return f"has a damaged header: its checksum is {crc:08x}, and it says {told:08x}"


def payload_crc(whole: Path | HeldFile, start: int) -> int:
    """Return the CRC-32 of a file's bytes from ``start`` on."""
    crc = 0
    with whole.open("rb") if isinstance(whole, Path) else whole.open() as file:
        file.seek(start)
        while piece := file.read(PIECE_BYTES):
            crc = zlib.crc32(piece, crc)
    return crc
