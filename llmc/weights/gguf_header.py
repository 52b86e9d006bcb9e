"""Read the header of a GGUF file: key-values, and where every tensor lies.

Every length is compared with the file before it is used. The reader of the gguf package trusts
lengths, and a damaged header that promises 2^60 strings keeps it busy forever. The numbers of
types and their block sizes are that package's.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from llmc.kinds import HEAD_BYTES, not_data, read_strictly
from llmc.weights.base import TensorPlace, cut_short

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
# The numbers of types -> struct's codes.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_HEADER = 1 << 28  # bytes; those of published models have a few million
MOST_ITEMS = 1 << 22  # in all arrays
MOST_ENTRIES = 1 << 16  # tensors, and key-values: those of 4,096 layers
MOST_DIMENSIONS = 8
LONGEST_NAME = 1 << 16


@dataclass(frozen=True)
class GgufArray:
    """An array among the key-values: the type of its items (struct's code or ``string``)."""

    kind: str
    items: tuple[Any, ...]


@dataclass
class GgufHeader:
    """The header of a GGUF file, as far as it could be read."""

    version: int = 0
    tensor_count: int = 0  # the number of tensors that the header promises
    key_count: int = 0  # the number of key-values that it promises
    metadata: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, TensorPlace] = field(default_factory=dict)


class DamagedHeader(Exception):
    """The header does not follow the specification; the message says where."""


def read_gguf(path: Path) -> GgufHeader:
    """Return the header of a GGUF file.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is damaged, cut short, or big-endian.
    """
    return read_strictly(scan_gguf, path, missing=f"there is no file {path}")


def scan_gguf(path: Path, name: str = "it") -> tuple[GgufHeader, list[str]]:
    """Read the header of a GGUF file: a :data:`llmc.kinds.Scan`."""
    header = GgufHeader()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(HEAD_BYTES)
        if (sentence := not_data(head, name)) is not None:
            return header, [sentence]
        file.seek(0)
        try:
            _read(_Walk(file, size), header, path)
        except DamagedHeader as error:
            return header, [
                f"{name} is damaged or not a GGUF file: {error}; get or make the file again"
            ]
    return header, _place_problems(header, size, name)


class _Walk:
    """Reads a header from the front, never more than the file has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.items = 0

    @property
    def left(self) -> int:
        return self.size - self.file.tell()

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise DamagedHeader(
                f"{what} takes {count:,} bytes, and only {self.left:,} are left of the file"
            )
        if self.file.tell() + count > MOST_HEADER:
            raise DamagedHeader(f"its header reaches beyond {MOST_HEADER:,} bytes")
        return self.file.read(count)

    def number(self, code: str, what: str) -> Any:
        data = self.take(struct.calcsize(f"<{code}"), what)
        return struct.unpack(f"<{code}", data)[0] if code != "?" else data[0] != 0

    def text(self, what: str, longest: int | None = None) -> str:
        length = self.number("Q", f"the length of {what}")
        if longest is not None and length > longest:
            raise DamagedHeader(f"{what} is {length:,} bytes long, more than a name is")
        return self.take(length, what).decode(errors="backslashreplace")

    def value(self, kind: int, what: str) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind], what)
        if kind == STRING:
            return self.text(what)
        if kind == ARRAY:
            return self.array(what)
        raise DamagedHeader(f"{what} has the unknown type {kind}")

    def array(self, what: str) -> GgufArray:
        kind, count = self.number("I", f"the type of {what}"), self.number("Q", what)
        if kind in SCALARS:
            code = SCALARS[kind]
            width = struct.calcsize(f"<{code}")
            self._promised(count, width, what)
            return GgufArray(code, struct.unpack(f"<{count}{code}", self.take(count * width, what)))
        if kind != STRING:
            raise DamagedHeader(f"{what} is an array of type {kind}, which no GPT-2 has")
        self._promised(count, 8, what)
        return GgufArray("string", tuple(self.text(what) for _ in range(count)))

    def _promised(self, count: int, width: int, what: str) -> None:
        self.items += count
        if count * width > self.left:
            raise DamagedHeader(f"{what} promises {count:,} items, more than the file holds")
        if self.items > MOST_ITEMS:
            raise DamagedHeader(f"{what} promises {count:,} items, more than any GPT-2 has")


def _read(walk: _Walk, header: GgufHeader, path: Path) -> None:
    if walk.take(4, "the magic") != MAGIC:
        raise DamagedHeader("it does not begin with GGUF")
    header.version = walk.number("I", "the version")
    if header.version not in VERSIONS:
        swapped = int.from_bytes(header.version.to_bytes(4, "little"), "big")
        order = "; it has the other byte order" if swapped in VERSIONS else ""
        raise DamagedHeader(
            f"its version is {header.version}, and versions 2 and 3 are known{order}"
        )
    header.tensor_count = walk.number("Q", "the number of tensors")
    header.key_count = walk.number("Q", "the number of key-values")
    for count, what in ((header.key_count, "key-values"), (header.tensor_count, "tensors")):
        if count > MOST_ENTRIES:
            raise DamagedHeader(f"it promises {count:,} {what}, more than any GPT-2 has")
    for index in range(header.key_count):
        key = walk.text(f"key {index + 1:,} of {header.key_count:,}", LONGEST_NAME)
        kind = walk.number("I", f"the type of {_short(key)}")
        if key in header.metadata:
            raise DamagedHeader(f"the key {_short(key)} comes twice")
        header.metadata[key] = walk.value(kind, f"the value of {_short(key)}")
    places = [_tensor(walk, header, index) for index in range(header.tensor_count)]
    alignment = header.metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise DamagedHeader(f"its alignment is {_short(alignment)}, not a power of two")
    start = -(-walk.file.tell() // alignment) * alignment
    for name, number, shape, offset in places:
        dtype, block, width = tensor_types().get(number, (str(number), 0, 0))
        row = shape[-1] if shape else 1
        if not block or row % block:
            raise DamagedHeader(
                f"the tensor {_short(name)} has the type {dtype} and the shape {list(shape)}, "
                "which do not go together"
            )
        size = math.prod(shape) // block * width
        header.entries[name] = TensorPlace(path, dtype, shape, start + offset, size)
    if len(header.entries) < len(places):
        raise DamagedHeader("a tensor comes twice")


def _tensor(walk: _Walk, header: GgufHeader, index: int) -> tuple[str, int, tuple[int, ...], int]:
    """Return the name, type, shape (slowest dimension first) and offset of the next tensor."""
    what = f"the entry of tensor {index + 1:,} of {header.tensor_count:,}"
    name = walk.text(what, LONGEST_NAME)
    dimensions = walk.number("I", what)
    if dimensions > MOST_DIMENSIONS:
        raise DamagedHeader(f"the tensor {_short(name)} has {dimensions:,} dimensions")
    shape = [walk.number("Q", what) for _ in range(dimensions)]
    return name, walk.number("I", what), (*reversed(shape),), walk.number("Q", what)


def _short(value: object) -> str:
    """Return a value from the file on one printable line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _place_problems(header: GgufHeader, size: int, name: str) -> list[str]:
    """Compare the places of the tensors with the file and with each other."""
    problems = []
    if (sentence := cut_short(name, header.entries, size)) is not None:
        problems.append(f"{sentence}; get or make the file again")
    spans = sorted((place.start, place.start + place.size) for place in header.entries.values())
    if any(stop > start for (_, stop), (start, _) in pairwise(spans)):
        problems.append(f"{name} has tensors that overlap; get or make the file again")
    return problems


@cache
def tensor_types() -> dict[int, tuple[str, int, int]]:
    """Return the name, the numbers in a block and the bytes of a block of each tensor type."""
    from gguf import GGML_QUANT_SIZES

    return {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
