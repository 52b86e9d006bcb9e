"""Safetensors: named tensors in one file or several, read where they lie, written as a stream.

Layout: the length of the header (uint64), the header (JSON: name -> dtype, shape, data_offsets from
the header's end; ``__metadata__``: strings), the data. A model in several files has an index beside
them that says which file holds which tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData, MissingOutput
from llmc.weights.base import STORED, Stored, stored_bytes, write_blocks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

INDEX_SUFFIX = ".index.json"
READABLE = ("F32", "F16", "BF16", "F64")
HEADER_ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: a file, the type as safetensors names it, its shape, its first byte."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def stored(self) -> Stored:
        """Return it, memory-mapped; its type must be one of ``READABLE``."""
        import numpy as np

        return Stored(
            self.dtype, np.memmap(self.path, STORED[self.dtype], "r", self.offset, self.shape)
        )


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: how it is called and stored, and its numbers as they are made."""

    name: str
    kind: str
    shape: tuple[int, ...]
    blocks: Iterable[Floats]


class SafetensorsFile:
    """The tensors of a ``.safetensors`` file, or of several behind a ``.safetensors.index.json``.

    Attributes:
        path: the file or the index.
        entries: by name, as the files have them.
        metadata: the strings that the file carries; none where there are several.
    """

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Raises:
            BadData: a file is damaged, of another format, or not what the index says.
        """
        self.path = path
        self.metadata: dict[str, str] = {}
        if path.name.endswith(INDEX_SUFFIX):
            self.entries = _indexed(path)
        else:
            self.entries, self.metadata = _header(path)

    def stored(self, name: str) -> Stored:
        """Return a tensor, memory-mapped."""
        return self.entries[name].stored()


def index_parts(path: Path) -> dict[str, list[str]]:
    """Return which files an index names, and which tensors each of them holds.

    Raises:
        BadData: the index is damaged, or names a file elsewhere than beside it.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        parts: dict[str, list[str]] = {}
        for name, file in table.items():
            if Path(file).name != file or file in ("", ".."):
                raise ValueError(f"{file!r} should name a file beside it")
            parts.setdefault(file, []).append(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(f"{path} is not an index of weights ({error}): get it again") from error
    return parts


def _indexed(path: Path) -> dict[str, Entry]:
    entries = {}
    for file, names in index_parts(path).items():
        part = path.with_name(file)
        if not part.is_file():
            raise MissingOutput(f"there is no {part}, of which {path.name} tells: get it again")
        found, _ = _header(part)
        for name in names:
            if name not in found:
                raise BadData(f"{part} has no tensor {name}, which {path.name} promises")
            entries[name] = found[name]
    return entries


def _header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        # The library checks that header, offsets and file size agree; its numpy interface cannot
        # give bfloat16, so the data is read at the offsets it has approved.
        with safe_open(path, framework="numpy"), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except SafetensorError as error:
        raise BadData(
            f"{path} is damaged or not a safetensors file ({error}): get it again"
        ) from error
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or error}") from error
    metadata = header.pop("__metadata__", None) or {}
    entries = {
        name: Entry(path, item["dtype"], tuple(item["shape"]), 8 + size + item["data_offsets"][0])
        for name, item in header.items()
    }
    return entries, metadata


def write_safetensors(path: Path, plan: Iterable[Planned], metadata: Mapping[str, str]) -> None:
    """Write tensors in the order given; their numbers are asked for one tensor after another.

    Raises:
        BadData: a number does not fit its type.
        OSError: the disk is full.
    """
    planned = list(plan)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in planned:
        end = offset + stored_bytes(math.prod(tensor.shape), tensor.kind)
        header[tensor.name] = {
            "dtype": tensor.kind,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in planned:
            write_blocks(file, tensor.blocks, tensor.kind)


def transposed(blocks: Iterable[Floats]) -> Iterator[Floats]:
    """Yield a matrix that comes in blocks of rows as one block, transposed."""
    import numpy as np

    yield np.concatenate(list(blocks)).T
