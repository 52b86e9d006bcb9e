"""Read and write safetensors: named tensors in one file or several.

Layout: the length of the header (uint64), the header (JSON: name -> dtype, shape, data_offsets from
the header's end; ``__metadata__``: strings), the data. A model in several files has an index beside
them that says which file holds which tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmc.errors import BadData, MissingOutput
from llmc.kinds import HEAD_BYTES, is_failure, not_data, read_strictly, reason_of
from llmc.parsing import LARGEST_TEXT, from_json_file, read_limited
from llmc.tokens.files import is_file_name
from llmc.weights.base import TensorPlace, cut_short
from llmc.weights.number_types import stored_bytes, write_blocks

if TYPE_CHECKING:
    from llmc.weights.number_types import Floats

INDEX_SUFFIX = ".index.json"
READABLE = ("F32", "F16", "BF16", "F64")
HEADER_ALIGNMENT = 8
MOST_DIMENSIONS = 8
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "BOOL": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8,
}  # fmt: skip
Item = TypeVar("Item")


@dataclass(frozen=True)
class Planned:
    """A tensor to write: its name, type and shape, and its numbers in blocks."""

    name: str
    kind: str
    shape: tuple[int, ...]
    blocks: Iterable[Floats]


@dataclass(frozen=True)
class SafetensorsHeader:
    """The header of a safetensors file."""

    entries: dict[str, TensorPlace]
    metadata: dict[str, str]
    size: int = 0  # the length of the JSON in bytes


def read_safetensors(path: Path) -> SafetensorsHeader:
    """Read the header of a ``.safetensors`` file, or those that a ``.index.json`` names.

    Raises:
        MissingOutput: a file that the index names is gone.
        BadData: a file is damaged, of another format, or not what the index says.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return read_strictly(scan_safetensors, path)
    entries = read_parts(path, lambda part: read_strictly(scan_safetensors, part).entries)
    return SafetensorsHeader(entries, {})


def index_parts(path: Path) -> dict[str, list[str]]:
    """Return the files that an index names, and the tensors in each.

    Raises:
        BadData: the index is damaged, or names a file elsewhere than beside it.
    """
    raw = b""
    try:
        raw = read_limited(path)
        table = from_json_file(raw)["weight_map"]
        parts: dict[str, list[str]] = {}
        for name, file in table.items():
            if not is_file_name(file):
                raise ValueError(f"{file!r:.80} should name a file beside it")
            parts.setdefault(file, []).append(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(
            not_data(raw[:HEAD_BYTES], str(path))
            or f"{path} is not an index of weights ({error}): get it again"
        ) from error
    return parts


def read_parts(path: Path, read: Callable[[Path], Mapping[str, Item]]) -> dict[str, Item]:
    """Return the tensors that an index names; ``read`` returns those of one file.

    Raises:
        MissingOutput: a file that the index names is gone.
        BadData: the index is damaged, or a file lacks a tensor.
    """
    entries = {}
    for file, names in index_parts(path).items():
        part = path.with_name(file)
        if not part.is_file():
            raise MissingOutput(f"{part} is gone, and the index {path.name} names it: get it again")
        found = read(part)
        for name in names:
            if name not in found:
                raise BadData(f"{part} has no tensor {name}, which {path.name} promises")
            entries[name] = found[name]
    return entries


def scan_safetensors(path: Path, name: str = "it") -> tuple[SafetensorsHeader | None, list[str]]:
    """Read the header of one file: a :data:`llmc.kinds.Scan`."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(HEAD_BYTES)
        length = int.from_bytes(head[:8], "little")
        file.seek(8)
        text = file.read(length) if length <= min(LARGEST_TEXT, size - 8) else None
    broken = f"{name} is damaged or not a safetensors file"
    if (sentence := not_data(head, name)) is not None:
        return None, [sentence]
    if text is None:
        promise = f"its header promises {length:,} bytes, and the file has {size:,}"
        return None, [f"{broken}: {promise}; get it again"]
    try:
        header = from_json_file(text)
        metadata = header.pop("__metadata__", None) or {}
        items = header.items()
    except (ValueError, AttributeError, TypeError) as error:
        reason = f"its header of {length:,} bytes is not a JSON table ({type(error).__name__})"
        return None, [f"{broken}: {reason}; get it again"]
    entries: dict[str, TensorPlace] = {}
    problems = []
    for key, item in items:
        entry = _entry(path, item, 8 + length)
        if isinstance(entry, TensorPlace):
            entries[key] = entry
        else:
            problems.append(f"{name} has a broken entry for the tensor {key!r}: {entry}")
    end = max((entry.start + entry.size for entry in entries.values()), default=size)
    if (sentence := cut_short(name, entries, size)) is not None:
        problems.append(f"{sentence}; get it again")
    elif end < size:
        rest = f"{size - end:,} bytes follow the last tensor"
        problems.append(f"{name} is too long: {rest}; get it again")
    if not problems and (refusal := _refused(path)) is not None:
        problems.append(f"{broken} ({refusal}): get it again")
    strings = metadata if isinstance(metadata, dict) else {}
    return SafetensorsHeader(entries, strings, length), problems


def _entry(path: Path, item: Any, base: int) -> TensorPlace | str:
    """Return where a tensor lies, or what is wrong with its entry."""
    try:
        dtype, shape, (start, stop) = item["dtype"], item["shape"], item["data_offsets"]
        numbers = [*shape, start, stop]
    except (TypeError, KeyError, ValueError):
        return "it needs dtype, shape and two data_offsets"
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        return "its shape and offsets should be counts"
    if len(shape) > MOST_DIMENSIONS:
        return f"it has {len(shape):,} dimensions"
    if not isinstance(dtype, str):
        return "its dtype should be a name"
    if dtype in BITS and (stop - start) * 8 != BITS[dtype] * math.prod(shape):
        return f"its shape {shape} of {dtype} does not take {stop - start:,} bytes"
    return TensorPlace(path, dtype, tuple(shape), base + start, stop - start)


def _refused(path: Path) -> str | None:
    """Return why the safetensors library refuses a file (overlaps, gaps, order), or None."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy"):
            return None
    except BaseException as error:
        if not is_failure(error):
            raise
        return reason_of(error)


def write_safetensors(path: Path, plan: Iterable[Planned], metadata: Mapping[str, object]) -> None:
    """Write tensors in the given order, one at a time.

    Raises:
        BadData: a number does not fit its type.
        OSError: the disk is full.
    """
    planned = list(plan)
    header: dict[str, object] = {
        "__metadata__": {
            key: value if isinstance(value, str) else repr(value) for key, value in metadata.items()
        }
    }
    offset = 0
    for tensor in planned:
        end = offset + stored_bytes(math.prod(tensor.shape), tensor.kind)
        place = {"dtype": tensor.kind, "shape": [*tensor.shape], "data_offsets": [offset, end]}
        header[tensor.name] = place
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in planned:
            write_blocks(file.write, tensor.blocks, tensor.kind)
