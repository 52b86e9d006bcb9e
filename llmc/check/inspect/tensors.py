"""The table of a file's tensors, with the statistics of each, whatever the format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.reading import Asked, ReadBudget
from llmc.check.inspect.statistics import MOMENT_COLUMNS, Moments
from llmc.model import ModelConfig, parameter_count
from llmc.weights.base import TensorPlace
from llmc.weights.huggingface import MASK, PREFIX
from llmc.weights.number_types import from_bf16

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_ROWS = 2000  # of a table
# Types that NumPy holds; GGUF's block types are the gguf package's.
NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "<u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1",
}  # fmt: skip


def say_shape(made: Description, config: ModelConfig) -> None:
    """Add a model's shape and its parameters."""
    made.say(
        "shape",
        {
            "layers": config.layers,
            "heads": config.heads,
            "channels": config.channels,
            "context": config.context,
            "vocab_size": config.vocab_size,
        },
        f"{config.layers:,} layers, {config.heads:,} heads, {config.channels:,} channels, "
        f"context {config.context:,}, vocabulary {config.vocab_size:,}",
    )
    made.say("parameters", parameter_count(config))


def say_tensors(made: Description, entries: Mapping[str, TensorPlace], asked: Asked) -> None:
    """Add the table of tensors, with statistics if they are asked for."""
    rows, shown = [], []
    for name, place in list(entries.items())[:MOST_ROWS]:
        row: list[Any] = [name, place.dtype, list(place.shape)]
        short = name.removeprefix(PREFIX)
        text = [safe_text(short, 60), safe_text(place.dtype, 12), shown_shape(place.shape)]
        if asked.tensors:
            found = moments(place, asked.reading)
            if found.nan and not MASK.fullmatch(short):
                made.wrong(f"{safe_text(name, 60)} has {found.nan:,} values that are no numbers")
            row += found.cells()
            text += map(shown_cell, found.cells())
        rows.append(row)
        shown.append(text)
    columns = ("name", "type", "shape", *(MOMENT_COLUMNS if asked.tensors else ()))
    made.table("tensors", columns, rows, shown=shown, left_out=max(0, len(entries) - MOST_ROWS))


def say_moments(
    made: Description, shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, Moments]
) -> None:
    """Add the table of a checkpoint's tensors with their statistics."""
    rows, shown = [], []
    for name, shape in shapes.items():
        cells = found[name].cells() if name in found else (None,) * len(MOMENT_COLUMNS)
        rows.append((name, list(shape), *cells))
        shown.append((name, shown_shape(shape), *map(shown_cell, cells)))
    made.table("tensors", ("name", "shape", *MOMENT_COLUMNS), rows, shown=shown)


def moments(place: TensorPlace, reading: ReadBudget) -> Moments:
    """Return the statistics of a tensor; empty for a type that cannot be decoded."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    found = Moments()
    if place.start + place.size > place.path.stat().st_size:
        return found
    kind = GGMLQuantizationType.__members__.get(place.dtype)
    if place.dtype in NUMPY:
        block = 8
    elif kind is not None:
        block = GGML_QUANT_SIZES[kind][1]
    else:
        return found
    piece = (1 << 23) // block * block
    for data in reading.pieces(place.path, place.start, place.start + place.size, piece):
        try:
            found.add(_values(place.dtype, data, block))
        except NotImplementedError:  # the gguf package cannot decode every type
            return Moments()
    return found


def _values(dtype: str, data: bytes, block: int) -> NDArray[Any]:
    import numpy as np

    if dtype in NUMPY:
        numbers = np.dtype(NUMPY[dtype])
        whole = data[: len(data) // numbers.itemsize * numbers.itemsize]
        values: NDArray[Any] = np.frombuffer(whole, numbers)
        return from_bf16(values) if dtype == "BF16" else values
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = np.frombuffer(data[: len(data) // block * block], np.uint8).reshape(-1, block)
    with np.errstate(all="ignore"):
        decoded: NDArray[Any] = dequantize(raw, GGMLQuantizationType[dtype])
    return decoded


def shown_shape(shape: tuple[int, ...]) -> str:
    """Return a shape as ``12 × 2304 × 768``."""
    return safe_text(" × ".join(map(str, shape)), 60) if shape else "scalar"


def shown_cell(value: float | None) -> str:
    """Return a statistic in a few characters."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def say_types(made: Description, entries: Mapping[str, TensorPlace]) -> None:
    """Add how many tensors there are of each type, and how many values."""
    made.say("tensor_count", len(entries))
    made.say("values", sum(math.prod(place.shape) for place in entries.values()))
    types: dict[str, int] = {}
    for place in entries.values():
        types[place.dtype] = types.get(place.dtype, 0) + 1
    made.say("types", types, ", ".join(f"{safe_text(k, 20)} ({n:,})" for k, n in types.items()))
