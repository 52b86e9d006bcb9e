"""safetensors files: a JSON header that says where each tensor lies, and the tensors."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.check.inspect.checkpoints import say_shape, shown_cell, shown_shape
from llmc.check.inspect.description import Description, byte_count, safe_text
from llmc.check.inspect.gpt2_names import huggingface_gpt2
from llmc.check.inspect.manifests import read_json
from llmc.check.inspect.reading import Asked, Reading, file_size, head_of
from llmc.check.inspect.statistics import MOMENT_COLUMNS, Moments
from llmc.weights.checkpoint import from_bf16
from llmc.weights.huggingface import MASK, PREFIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_HEADER = 100_000_000  # the library's own limit
MOST_ROWS = 2000  # of a table
# Type -> bits, and NumPy's type where it has one.
TYPES: dict[str, tuple[int, str | None]] = {
    "F64": (64, "<f8"), "F32": (32, "<f4"), "F16": (16, "<f2"), "BF16": (16, "<u2"),
    "F8_E4M3": (8, None), "F8_E5M2": (8, None), "I64": (64, "<i8"), "I32": (32, "<i4"),
    "I16": (16, "<i2"), "I8": (8, "<i1"), "U64": (64, "<u8"), "U32": (32, "<u4"),
    "U16": (16, "<u2"), "U8": (8, "<u1"), "BOOL": (8, "<u1"),
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor: its type, its shape, and its bytes in the file from ``start`` to ``stop``."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def describe_safetensors(path: Path, asked: Asked) -> Description:
    """Describe a safetensors file, and whether it is a whole GPT-2.

    Raises:
        OSError: it cannot be read.
    """
    made, tensors = describe_file(path, asked)
    if tensors is not None:
        heads = _heads_beside(path)
        say_gpt2(made, {name: item.shape for name, item in tensors.items()}, heads)
    return made


def _heads_beside(path: Path) -> int | None:
    """Return the heads that a config.json beside the file tells of, if one does."""
    try:
        heads = read_json(path.with_name("config.json"))["n_head"]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
    return heads if type(heads) is int and heads > 0 else None


def describe_file(path: Path, asked: Asked) -> tuple[Description, dict[str, Stored] | None]:
    """Describe one file, which may be a part of a model; return its tensors as well.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "safetensors", "safetensors file")
    size = file_size(path)
    made.say("bytes", size, byte_count(size))
    tensors = read_header(made)
    if tensors is not None:
        say_types(made, tensors)
        say_stored(made, tensors, asked)
    return made, tensors


def say_gpt2(made: Description, shapes: Mapping[str, tuple[int, ...]], heads: int | None) -> None:
    """Say whether tensors under Hugging Face's names are a GPT-2, and of what shape."""
    found = huggingface_gpt2(shapes, heads)
    if isinstance(found, str):
        made.say("gpt2", False, f"no: {safe_text(found)}")
        return
    taken = "" if heads else "; heads of 64 channels are taken"
    made.say("gpt2", True, f"yes, every tensor of one is there{taken}")
    say_shape(made, found)
    made.hints.append(f"llmc export-weights {shlex.quote(str(made.path))}")


def read_header(made: Description) -> dict[str, Stored] | None:
    """Return the tensors that the header names; say what is wrong. None: there is no header.

    Raises:
        OSError: the file cannot be read.
    """
    size = file_size(made.path)
    length = int.from_bytes(head_of(made.path, 8), "little")
    if length > min(LARGEST_HEADER, size - 8):
        made.wrong(
            f"its header promises {length:,} bytes of JSON, and the file has {size:,}: it is cut "
            "short or no safetensors file; get it again"
        )
        return None
    try:
        header = json.loads(head_of(made.path, 8 + length)[8:])
        if not isinstance(header, dict):
            raise ValueError("it is no table")
    except (ValueError, RecursionError) as error:
        made.wrong(f"its header of {length:,} bytes is no JSON ({_reason(error)}): get it again")
        return None
    made.say("header_bytes", length)
    _say_metadata(made, header.pop("__metadata__", {}))
    tensors = {}
    for name, item in header.items():
        stored = _stored(item, 8 + length)
        if isinstance(stored, Stored):
            tensors[name] = stored
        else:
            made.wrong(f"the entry of {safe_text(name)} is broken: {stored}")
    _say_size(made, tensors, 8 + length, size)
    _ask_the_library(made)
    return tensors


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else safe_text(str(error))


def _say_metadata(made: Description, metadata: Any) -> None:
    if isinstance(metadata, dict) and metadata:
        pairs = [f"{safe_text(str(k), 40)}={safe_text(str(v), 60)}" for k, v in metadata.items()]
        more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
        made.say("metadata", metadata, ", ".join(pairs[:8]) + more)


def _stored(item: Any, base: int) -> Stored | str:
    """Return a tensor's place, or what is wrong with its entry."""
    try:
        dtype, shape, (start, stop) = item["dtype"], item["shape"], item["data_offsets"]
        numbers = [*shape, start, stop]
    except (TypeError, KeyError, ValueError):
        return "it needs dtype, shape and two data_offsets"
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        return "its shape and offsets should be counts"
    if not isinstance(dtype, str):
        return "its dtype should be a name"
    if dtype in TYPES and (stop - start) * 8 != TYPES[dtype][0] * math.prod(shape):
        return (
            f"{safe_text(shown_shape(tuple(shape)), 60)} of {dtype} do not take the "
            f"{stop - start:,} bytes that are given"
        )
    return Stored(dtype, tuple(shape), base + start, base + stop)


def _say_size(made: Description, tensors: Mapping[str, Stored], base: int, size: int) -> None:
    """Hold the size of the file against the tensors."""
    end = max((item.stop for item in tensors.values()), default=base)
    if end > size:
        gone = sum(item.stop > size for item in tensors.values())
        made.wrong(
            f"it is cut short: {end - size:,} bytes are missing, and with them all or part of "
            f"{gone:,} of {len(tensors):,} tensors; get it again"
        )
    elif end < size and tensors:
        made.wrong(f"{size - end:,} bytes follow after the last tensor; get it again")
    elif tensors:
        made.say("size", "as the header says", "as the header says")


def _ask_the_library(made: Description) -> None:
    """Let the safetensors library check what its specification demands (overlaps, gaps, order)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(made.path, framework="numpy"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        if not made.problems:
            made.wrong(
                f"the safetensors library refuses it ({safe_text(str(error))}): get it again"
            )


def say_types(made: Description, tensors: Mapping[str, Stored]) -> None:
    """Say how many tensors of which types there are."""
    made.say("tensor_count", len(tensors), f"{len(tensors):,}")
    elements = sum(math.prod(item.shape) for item in tensors.values())
    made.say("values", elements)
    types: dict[str, int] = {}
    for item in tensors.values():
        types[item.dtype] = types.get(item.dtype, 0) + 1
    made.say("types", types, ", ".join(f"{safe_text(k, 20)} ({n:,})" for k, n in types.items()))


def say_stored(made: Description, tensors: Mapping[str, Stored], asked: Asked) -> None:
    """Add the table of tensors, with statistics where they are wanted."""
    rows, shown = [], []
    size = file_size(made.path)
    for name, item in list(tensors.items())[:MOST_ROWS]:
        row: list[Any] = [name, item.dtype, list(item.shape)]
        text = [
            safe_text(name.removeprefix(PREFIX), 60),
            safe_text(item.dtype, 12),
            shown_shape(item.shape),
        ]
        if asked.tensors:
            found = _moments(made.path, item, asked.reading, size)
            cells = found.cells()
            if found.nan and not MASK.fullmatch(name.removeprefix(PREFIX)):
                made.wrong(f"{safe_text(name, 60)} has {found.nan:,} values that are no numbers")
            row += cells
            text += map(shown_cell, cells)
        rows.append(row)
        shown.append(text)
    columns = ("name", "type", "shape", *(MOMENT_COLUMNS if asked.tensors else ()))
    made.table("tensors", columns, rows, shown=shown, left_out=max(0, len(tensors) - MOST_ROWS))


def _moments(path: Path, item: Stored, reading: Reading, size: int) -> Moments:
    """Read a tensor and return its statistics; of a type that NumPy lacks, none."""
    import numpy as np

    found = Moments()
    dtype = TYPES.get(item.dtype, (0, None))[1]
    if dtype is None or item.stop > size:
        return found
    width = np.dtype(dtype).itemsize
    for data in reading.pieces(path, item.start, item.stop):
        values: NDArray[Any] = np.frombuffer(data[: len(data) // width * width], dtype)
        found.add(from_bf16(values) if item.dtype == "BF16" else values)
    return found
