"""Model checkpoints of llm.c's versions 1, 3 and 5, with llmc's extension or without."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.check.inspect.description import Description
from llmc.check.inspect.reading import Asked, ReadBudget
from llmc.check.inspect.statistics import Moments
from llmc.check.inspect.tensors import say_moments, say_shape
from llmc.errors import LlmcError
from llmc.weights.checkpoint import (
    BF16,
    FP32,
    FP32_UNPADDED,
    HEADER_BYTES,
    CheckpointHeader,
    dimensions,
    scan_header,
)
from llmc.weights.number_types import from_bf16
from llmc.weights.tokenizer import tokenizer_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSIONS = {
    FP32_UNPADDED: "fp32, the vocabulary not padded",
    FP32: "fp32, the vocabulary padded",
    BF16: "bf16, the vocabulary padded",
}


def describe_checkpoint(path: Path, asked: Asked) -> Description:
    """Describe a model checkpoint.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "checkpoint", "model checkpoint, llm.c's format")
    size = made.say_bytes()
    header, problems = scan_header(path)
    made.problems += problems
    if header is None:
        if size >= HEADER_BYTES:
            with path.open("rb") as file:
                version, shape, _ = dimensions(file.read(HEADER_BYTES))
            made.say("version", version)
            made.say("shape", shape, ", ".join(f"{key} {n:,}" for key, n in shape.items()))
        return made
    made.say("version", header.version, f"{header.version}: {VERSIONS[header.version]}")
    say_shape(made, header.config)
    _say_origin(made, header)
    made.note("expected_bytes", header.file_bytes)
    if size == header.file_bytes:
        made.say("size", "as the header says")
    elif size < header.file_bytes:
        whole = _whole_tensors(header, size)
        shown = f"the first {whole} of {len(header.shapes)} tensors are whole"
        made.say("whole_tensors", whole, shown)
    _say_contents(made, asked, header, size)
    if size == header.file_bytes:
        _say_tokenizer(made, asked, header)
    return made


def _say_origin(made: Description, header: CheckpointHeader) -> None:
    """Add what llmc's extension of the header holds."""
    made.say("dtype", header.dtype)
    if not header.extension:
        made.say("written_by", "llm.c", "llm.c or another: the header has no extension of llmc's")
        return
    made.say("written_by", "llmc", f"llmc: header extension {header.extension}")
    if header.crc is None:
        return  # a newer extension
    made.say("step", header.step, f"{header.step:,}" if header.step else "0: not trained")
    loss = header.val_loss
    made.say("val_loss", loss, "not known" if loss is None else f"{loss:.6g}")
    if loss is not None and not math.isfinite(loss):
        made.wrong(f"the validation loss it was saved at is {loss}")
    made.note("tokenizer", header.tokenizer.hex() if header.tokenizer else None)
    made.note("crc32", f"{header.crc:08x}")


def _whole_tensors(header: CheckpointHeader, size: int) -> int:
    end, whole = HEADER_BYTES, 0
    for shape in header.shapes.values():
        end += (2 if header.version == BF16 else 4) * math.prod(shape)
        whole += end <= size
    return whole


def _say_contents(made: Description, asked: Asked, header: CheckpointHeader, size: int) -> None:
    """Read the tensors once: the checksum, the padding, and statistics if they are asked for."""
    whole = size == header.file_bytes
    if not (asked.tensors or whole):
        return
    if not asked.reading.whole(size - HEADER_BYTES):
        made.say("checksum", None, "not verified: the file is large; --full reads all of it")
        return
    found = read_contents(made.path, header, asked.reading, statistics=asked.tensors)
    if header.crc is None:
        made.say("checksum", None, "none in the header: nothing to verify the weights by")
    elif whole and found.crc == header.crc:
        made.say("checksum", "verified", f"CRC-32 {header.crc:08x}, verified")
    elif whole:
        made.say("checksum", "differs", f"CRC-32 {found.crc:08x}, not {header.crc:08x}")
        made.wrong(
            f"it is damaged: its checksum is {found.crc:08x}, its header promises "
            f"{header.crc:08x}; get or make the file again"
        )
    if whole and header.version != FP32_UNPADDED:
        rows = header.config.padded_vocab_size - header.config.vocab_size
        zero = "all zero" if not found.padding else f"{found.padding:,} values not zero"
        made.say("padding", found.padding == 0, f"{rows} rows of wte, {zero}")
        if found.padding:
            made.wrong(
                f"{found.padding:,} values in the padding rows of wte are not zero, as they "
                "should be"
            )
    if found.not_finite:
        made.wrong(f"{found.not_finite:,} weights are not finite numbers")
    if asked.tensors:
        say_moments(made, header.shapes, found.tensors)


@dataclass
class Contents:
    """Results of reading all tensors.

    Attributes:
        crc: CRC-32 of all bytes after the header.
        tensors: statistics by name, of the whole tensors.
        padding: values in wte's padding rows that are not zero.
        not_finite: NaNs and infinities in all tensors.
    """

    crc: int = 0
    tensors: dict[str, Moments] = field(default_factory=dict)
    padding: int = 0
    not_finite: int = 0


def read_contents(
    path: Path, header: CheckpointHeader, reading: ReadBudget, *, statistics: bool
) -> Contents:
    """Read all tensors once, from first to last, a piece at a time.

    Raises:
        OSError: the file cannot be read.
    """
    import numpy as np

    found = Contents()
    bf16 = header.version == BF16
    width = 2 if bf16 else 4
    start = HEADER_BYTES
    inside = header.config.vocab_size * header.config.channels
    end = min(path.stat().st_size, header.file_bytes)
    for name, shape in header.shapes.items():
        stop = start + width * math.prod(shape)
        at = 0
        if statistics and stop <= end:
            found.tensors[name] = Moments()
        for data in reading.pieces(path, start, min(stop, end)):
            found.crc = zlib.crc32(data, found.crc)
            bits = np.frombuffer(data[: len(data) // width * width], "<u2" if bf16 else "<f4")
            weights = bits[: max(0, inside - at)] if name == "wte" else bits
            if name == "wte":
                found.padding += int(np.count_nonzero(bits[weights.size :]))
            if statistics and name in found.tensors:
                found.tensors[name].add(from_bf16(weights) if bf16 else weights)
            found.not_finite += _not_finite(weights, bf16)
            at += bits.size
        start = stop
    return found


def _not_finite(values: NDArray[np.generic], bf16: bool) -> int:
    import numpy as np

    if bf16:  # an exponent of ones
        return int(np.count_nonzero((values.view(np.uint16) & 0x7F80) == 0x7F80))
    return int(values.size - np.count_nonzero(np.isfinite(values.view(np.float32))))


def _say_tokenizer(made: Description, asked: Asked, header: CheckpointHeader) -> None:
    """Add whether the model's tokenizer is beside it or in the workspace."""
    fingerprint = header.tokenizer.hex() if header.tokenizer else None
    vocab_size = header.config.vocab_size
    try:
        found = asked.tokenizer or tokenizer_of(asked.workspace, made.path)
    except (LlmcError, OSError):
        return  # the checkpoint is damaged, which is among the problems
    if fingerprint is None and found is None:
        made.say("tokenizer_found", None, "the header names none")
        return
    named = f"fingerprint {fingerprint[:16]}…" if fingerprint else "none in the header"
    if found is None:
        made.say("tokenizer_found", None, f"{named}, not found in this workspace")
    elif fingerprint not in (None, found.fingerprint):
        made.say("tokenizer_found", None, f"{named}; {found.name} is another one")
        made.wrong(f"it was trained with another tokenizer than {found.name}, which was named")
    elif found.vocab_size != vocab_size:
        made.say("tokenizer_found", found.name, f"{found.name}: {found.vocab_size:,} tokens")
        made.wrong(f"the tokenizer has {found.vocab_size:,} tokens, the model {vocab_size:,}")
    else:
        made.say("tokenizer_found", found.name, f"{found.name}, found: {named}")
