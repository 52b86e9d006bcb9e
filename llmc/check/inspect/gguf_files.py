"""GGUF files: key-values, a list of tensors, and their data.

The header is walked here, with every length held against the file before it is used: the gguf
package's reader trusts it, and a header that promises 2^60 strings keeps it busy for good. The
numbers of types and their sizes are the package's.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from llmc.check.inspect.checkpoints import say_shape, shown_cell, shown_shape
from llmc.check.inspect.description import Description, byte_count, quoted, safe_text
from llmc.check.inspect.gpt2_names import gguf_gpt2
from llmc.check.inspect.reading import Asked, file_size
from llmc.check.inspect.statistics import MOMENT_COLUMNS, Moments

VERSIONS = (2, 3)
ALIGNMENT = 32
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
MOST_ITEMS = 1 << 24  # strings and key-values in all
MOST_DIMENSIONS = 8
MOST_ROWS = 2000
FIRST = 5  # of an array, that are kept
LONGEST_NAME = 1 << 16


@dataclass(frozen=True)
class Array:
    """An array of a header: how many items it has, of which type, and the first of them."""

    kind: str
    count: int
    first: tuple[Any, ...]


@dataclass(frozen=True)
class Info:
    """A tensor: its type by number, its shape (fastest dimension last), its place in the data."""

    type: int
    shape: tuple[int, ...]
    offset: int


@dataclass
class Header:
    """What the header says, as far as it could be read."""

    version: int = 0
    tensor_count: int = 0
    key_count: int = 0
    keys: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Info] = field(default_factory=dict)
    data_start: int = 0


class Broken(Exception):
    """The header is not as the specification says; the message tells why."""


class _Walk:
    """Reads a header from the front, never more than there is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.items = 0

    def take(self, count: int, what: str) -> bytes:
        left = self.size - self.file.tell()
        if count > left:
            raise Broken(f"{what} takes {count:,} bytes, and only {left:,} are left of the file")
        return self.file.read(count)

    def number(self, code: str, what: str) -> Any:
        data = self.take(struct.calcsize(f"<{code}"), what)
        return struct.unpack(f"<{code}", data)[0] if code != "?" else data[0] != 0

    def text(self, what: str, longest: int | None = None) -> str:
        length = self.number("Q", f"the length of {what}")
        if longest is not None and length > longest:
            raise Broken(f"{what} is {length:,} bytes long, more than a name is")
        return self.take(length, what).decode(errors="backslashreplace")

    def name(self, what: str) -> str:
        return self.text(what, LONGEST_NAME)

    def value(self, kind: int, what: str) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind], what)
        if kind == STRING:
            return self.text(what)
        if kind == ARRAY:
            return self.array(what)
        raise Broken(f"{what} is of type {kind}, which there is not")

    def array(self, what: str) -> Array:
        kind, count = self.number("I", f"the type of {what}"), self.number("Q", what)
        if kind in SCALARS:
            width = struct.calcsize(f"<{SCALARS[kind]}")
            if count * width > self.size - self.file.tell():
                raise Broken(f"{what} promises {count:,} items, more than the file holds")
            first = [self.number(SCALARS[kind], what) for _ in range(min(count, FIRST))]
            self.file.seek((count - len(first)) * width, 1)
            return Array(SCALARS[kind], count, tuple(first))
        if kind != STRING:
            raise Broken(f"{what} is an array of type {kind}, which no GPT-2 has")
        self.items += count
        if count * 8 > self.size - self.file.tell() or self.items > MOST_ITEMS:
            raise Broken(f"{what} promises {count:,} strings, more than the file holds")
        kept = []
        for index in range(count):
            item = self.text(what)
            if index < FIRST:
                kept.append(item)
        return Array("string", count, tuple(kept))


def read_header(path: Path) -> tuple[Header, str | None]:
    """Return what the header says as far as it goes, and why it goes no further.

    Raises:
        OSError: the file cannot be read.
    """
    header = Header()
    with path.open("rb") as file:
        walk = _Walk(file, file_size(path))
        try:
            _read(walk, header)
        except Broken as error:
            return header, str(error)
    return header, None


def _read(walk: _Walk, header: Header) -> None:
    walk.take(4, "the magic")
    header.version = walk.number("I", "the version")
    if header.version not in VERSIONS:
        swapped = int.from_bytes(header.version.to_bytes(4, "little"), "big")
        order = "; it is of the other byte order" if swapped in VERSIONS else ""
        raise Broken(f"its version is {header.version}, and versions 2 and 3 are known{order}")
    header.tensor_count = walk.number("Q", "the number of tensors")
    header.key_count = walk.number("Q", "the number of key-values")
    for index in range(header.key_count):
        key = walk.name(f"key {index + 1:,} of {header.key_count:,}")
        kind = walk.number("I", f"the type of {safe_text(key, 60)}")
        if key in header.keys:
            raise Broken(f"the key {safe_text(key, 60)} comes twice")
        header.keys[key] = walk.value(kind, f"the value of {safe_text(key, 60)}")
    for index in range(header.tensor_count):
        what = f"the entry of tensor {index + 1:,} of {header.tensor_count:,}"
        name = walk.name(what)
        dimensions = walk.number("I", what)
        if dimensions > MOST_DIMENSIONS:
            raise Broken(f"the tensor {safe_text(name, 60)} has {dimensions:,} dimensions")
        shape = [walk.number("Q", what) for _ in range(dimensions)]
        if name in header.tensors:
            raise Broken(f"the tensor {safe_text(name, 60)} comes twice")
        header.tensors[name] = Info(
            walk.number("I", what), (*reversed(shape),), walk.number("Q", what)
        )
    alignment = header.keys.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise Broken(f"its alignment is {safe_text(str(alignment), 40)}, which is no power of two")
    header.data_start = -(-walk.file.tell() // alignment) * alignment


def describe_gguf(path: Path, asked: Asked) -> Description:
    """Describe a GGUF file.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "gguf", "GGUF file")
    size = file_size(path)
    made.say("bytes", size, byte_count(size))
    header, broken = read_header(path)
    made.say("version", header.version)
    if broken is not None:
        made.wrong(f"its header is broken: {broken}; get or make the file again")
    architecture = header.keys.get("general.architecture")
    if isinstance(architecture, str):
        made.say("architecture", architecture)
    made.say("tensor_count", header.tensor_count)
    made.say("key_count", header.key_count)
    _say_model(made, header, broken)
    _say_tokenizer(made, header)
    if broken is None:
        _say_size(made, header, size)
    made.table(
        "keys",
        ("key", "value"),
        [(key, _plain(value)) for key, value in list(header.keys.items())[:MOST_ROWS]],
        shown=[
            (safe_text(key, 60), _shown(value))
            for key, value in list(header.keys.items())[:MOST_ROWS]
        ],
        left_out=max(0, len(header.keys) - MOST_ROWS),
    )
    _say_tensors(made, header, asked, size if broken is None else 0)
    return made


def _say_model(made: Description, header: Header, broken: str | None) -> None:
    """Say what file type it claims, and whether the tensors are a GPT-2's."""
    from gguf import LlamaFileType

    number = header.keys.get("general.file_type")
    if type(number) is int:
        known = [item.name for item in LlamaFileType if item.value == number]
        made.say(
            "file_type", number, f"{number}: {known[0].removeprefix('MOSTLY_')}" if known else None
        )
    types: dict[str, int] = {}
    for item in header.tensors.values():
        name = type_name(item.type)
        types[name] = types.get(name, 0) + 1
    made.say("types", types, ", ".join(f"{name} ({count:,})" for name, count in types.items()))
    values = sum(math.prod(item.shape) for item in header.tensors.values())
    made.say("values", values)
    if broken is not None:
        return
    heads = header.keys.get("gpt2.attention.head_count")
    shapes = {name: item.shape for name, item in header.tensors.items()}
    found = gguf_gpt2(shapes, heads if type(heads) is int and heads > 0 else None)
    if header.keys.get("general.architecture") != "gpt2":
        made.say("gpt2", False, "no: its architecture is another")
    elif isinstance(found, str):
        made.say("gpt2", False, f"no: {safe_text(found)}")
        made.wrong(f"it says that it is a GPT-2, and {safe_text(found)}")
    else:
        made.say("gpt2", True, "yes, every tensor of one is there")
        say_shape(made, found)


def _say_tokenizer(made: Description, header: Header) -> None:
    model = header.keys.get("tokenizer.ggml.model")
    tokens = header.keys.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or not isinstance(tokens, Array):
        made.say("tokenizer", None, "none in the file")
        return
    merges = header.keys.get("tokenizer.ggml.merges")
    eos = header.keys.get("tokenizer.ggml.eos_token_id")
    fields = {
        "model": model,
        "pre": header.keys.get("tokenizer.ggml.pre"),
        "tokens": tokens.count,
        "merges": merges.count if isinstance(merges, Array) else 0,
        "eos": eos if type(eos) is int else None,
    }
    shown = f"{safe_text(model, 40)}, {tokens.count:,} tokens, {fields['merges']:,} merges"
    made.say("tokenizer", fields, shown + (f", ends with {eos:,}" if type(eos) is int else ""))


def _say_size(made: Description, header: Header, size: int) -> None:
    """Hold the places of the tensors against the file and against each other."""
    spans = []
    for name, item in header.tensors.items():
        length = tensor_bytes(item)
        if length is None:
            made.wrong(
                f"the tensor {safe_text(name, 60)} is of type {type_name(item.type)} and shape "
                f"{safe_text(shown_shape(item.shape), 60)}, which there is not"
            )
            continue
        spans.append((header.data_start + item.offset, length, name))
    end = max((start + length for start, length, _ in spans), default=0)
    if end > size:
        gone = sum(start + length > size for start, length, _ in spans)
        made.wrong(
            f"it is cut short: {end - size:,} bytes are missing, and with them all or part of "
            f"{gone:,} of {len(header.tensors):,} tensors; get or make the file again"
        )
    elif spans:
        made.say("size", "holds every tensor", "holds every tensor")
    spans.sort()
    for (start, length, name), (after, _, other) in pairwise(spans):
        if start + length > after:
            made.wrong(f"the tensors {safe_text(name, 60)} and {safe_text(other, 60)} overlap")
            break


def type_name(number: int) -> str:
    """Return the name of a tensor type, or its number where it has none."""
    from gguf import GGMLQuantizationType

    return next((item.name for item in GGMLQuantizationType if item.value == number), str(number))


def tensor_bytes(item: Info) -> int | None:
    """Return the size of a tensor's data, None for a type that there is not or a broken row."""
    from gguf import GGML_QUANT_SIZES

    sizes = {kind.value: pair for kind, pair in GGML_QUANT_SIZES.items()}
    if item.type not in sizes:
        return None
    block, width = sizes[item.type]
    row = item.shape[-1] if item.shape else 1
    return math.prod(item.shape) // block * width if row % block == 0 else None


def _say_tensors(made: Description, header: Header, asked: Asked, size: int) -> None:
    rows, shown = [], []
    for name, item in list(header.tensors.items())[:MOST_ROWS]:
        row: list[Any] = [name, type_name(item.type), list(item.shape)]
        text = [safe_text(name, 60), type_name(item.type), safe_text(shown_shape(item.shape), 60)]
        if asked.tensors:
            found = _moments(made.path, header, item, asked, size)
            cells = found.cells()
            if found.nan:
                made.wrong(f"{safe_text(name, 60)} has {found.nan:,} values that are no numbers")
            row += cells
            text += map(shown_cell, cells)
        rows.append(row)
        shown.append(text)
    columns = ("name", "type", "shape", *(MOMENT_COLUMNS if asked.tensors else ()))
    made.table(
        "tensors", columns, rows, shown=shown, left_out=max(0, len(header.tensors) - MOST_ROWS)
    )


def _moments(path: Path, header: Header, item: Info, asked: Asked, size: int) -> Moments:
    """Read a tensor, a stretch of whole blocks at a time; of types without a formula, none."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    found = Moments()
    length = tensor_bytes(item)
    start = header.data_start + item.offset
    if not length or start + length > size:
        return found
    kind = GGMLQuantizationType(item.type)
    plain = {0: "<f4", 1: "<f2", 24: "<i1", 25: "<i2", 26: "<i4", 27: "<i8", 28: "<f8"}
    block = GGML_QUANT_SIZES[kind][1]
    for data in asked.reading.pieces(path, start, start + length, (1 << 23) // block * block):
        raw = data[: len(data) // block * block]
        if item.type in plain:
            found.add(np.frombuffer(raw, plain[item.type]))
            continue
        try:
            with np.errstate(all="ignore"):
                found.add(dequantize(np.frombuffer(raw, np.uint8).reshape(-1, block), kind))
        except NotImplementedError:
            return Moments()
    return found


def _plain(value: Any) -> Any:
    """Return a key's value as JSON takes it."""
    if isinstance(value, Array):
        return {"array_of": value.kind, "count": value.count, "first": list(value.first)}
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Array):
        first = ", ".join(
            quoted(item.encode("utf-8", "surrogatepass"), 20)
            if isinstance(item, str)
            else f"{item}"
            for item in value.first
        )
        more = ", …" if value.count > len(value.first) else ""
        return f"{value.count:,}: {first}{more}"
    if isinstance(value, str):
        return safe_text(value, 120)
    return f"{value}" if not isinstance(value, float) else f"{value:.6g}"
