"""The tensors of a file of any format: types, statistics, and the model that they make."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.reading import PIECE, Options
from llmc.check.inspect.statistics import MOMENT_COLUMNS, Moments
from llmc.errors import LlmcError
from llmc.model import ModelConfig, parameter_count
from llmc.weights.base import TensorPlace, Weights
from llmc.weights.names import MASK, PREFIX
from llmc.weights.number_types import from_bf16

MOST_ROWS = 2000  # of a table
# Types that NumPy holds; GGUF's block types are the gguf package's.
NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "<u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1",
}  # fmt: skip


def say_shape(made: Description, config: ModelConfig) -> None:
    """Add a model's shape and its parameters."""
    shape = asdict(config)
    made.say("shape", shape, shown_shape(shape))
    made.say("parameters", parameter_count(config))


def shown_shape(shape: Mapping[str, int]) -> str:
    """Return ``layers 12, heads 12, …``."""
    return ", ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in shape.items())


def say_model(made: Description, opened: Callable[[], Weights]) -> str | None:
    """Add whether the tensors are a GPT-2 that llmc reads; return why not, or None."""
    try:
        model = opened()
    except LlmcError as error:
        reason = safe_text(str(error).replace(f"{made.path}/", "").replace(f"{made.path}", "it"))
        made.say("gpt2", False, f"no: {reason}")
        return reason
    made.say("gpt2", True, "yes, every tensor of one is there")
    say_shape(made, model.config)
    return None


def say_types(made: Description, places: Mapping[str, TensorPlace]) -> None:
    """Add how many tensors there are of each type, and how many values."""
    made.say("values", sum(math.prod(place.shape) for place in places.values()))
    types = Counter(place.dtype for place in places.values())
    made.say("types", types, ", ".join(f"{safe_text(k, 20)} ({n:,})" for k, n in types.items()))


def say_tensors(
    made: Description,
    places: Mapping[str, TensorPlace],
    options: Options,
    found: Mapping[str, Moments] | None = None,
) -> None:
    """Add the table of tensors, with statistics if they are asked for.

    The tensors are not read if the statistics are ``found`` already.
    """
    rows = []
    for name, place in islice(places.items(), MOST_ROWS):
        cells: tuple[float | None, ...] = ()
        if options.tensors:
            moments = moments_of(place, options) if found is None else found[name]
            cells = moments.cells()
            if found is None and moments.nan and not MASK.fullmatch(name.removeprefix(PREFIX)):
                made.wrong(f"{safe_text(name, 60)} has {moments.nan:,} values that are not numbers")
        rows.append((name, place.dtype, list(place.shape), *cells))
    columns = ("name", "type", "shape", *(MOMENT_COLUMNS if options.tensors else ()))
    forms = {
        **dict.fromkeys(MOMENT_COLUMNS, _statistic),
        "name": lambda name: safe_text(name.removeprefix(PREFIX), 60),
        "type": lambda dtype: safe_text(dtype, 12),
        "shape": lambda shape: safe_text(" × ".join(map(str, shape)), 60) or "scalar",
    }
    made.table("tensors", columns, rows, total=len(places), forms=forms)


def _statistic(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def moments_of(place: TensorPlace, options: Options) -> Moments:
    """Return the statistics of a tensor; none for one that is cut or cannot be decoded."""
    found = Moments()
    if place.start + place.size <= place.path.stat().st_size:
        with suppress(NotImplementedError):  # the gguf package cannot decode every type
            for _, values in pieces_of(place, options):
                found.add(values)
    return found


def pieces_of(place: TensorPlace, options: Options) -> Iterator[tuple[bytes, NDArray[Any]]]:
    """Yield a tensor's bytes and its values (n,), a piece at a time; nothing for unknown types.

    Raises:
        OSError: the file cannot be read.
        NotImplementedError: the gguf package cannot decode the type.
    """
    stop = place.start + place.size
    if place.dtype in NUMPY:
        kind = np.dtype(NUMPY[place.dtype])
        for data in options.pieces(place.path, place.start, stop):
            values = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind)
            yield data, from_bf16(values) if place.dtype == "BF16" else values
        return
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    if (block_type := GGMLQuantizationType.__members__.get(place.dtype)) is None:
        return
    block = GGML_QUANT_SIZES[block_type][1]
    for data in options.pieces(place.path, place.start, stop, PIECE // block * block):
        raw = np.frombuffer(data[: len(data) // block * block], np.uint8).reshape(-1, block)
        with np.errstate(all="ignore"):
            decoded = dequantize(raw, block_type)
        yield data, decoded.reshape(-1)
