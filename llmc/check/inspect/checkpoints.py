"""Model checkpoints of llm.c's versions 1, 3 and 5, with llmc's extension or without."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.check.inspect.description import Description, byte_count
from llmc.check.inspect.reading import Asked, Reading, file_size, head_of
from llmc.check.inspect.statistics import MOMENT_COLUMNS, Moments
from llmc.errors import LlmcError, Usage
from llmc.model import ModelConfig, parameter_count
from llmc.weights.checkpoint import (
    BF16,
    EXT_AT,
    EXT_HAS_TOKENIZER,
    EXT_HAS_VAL_LOSS,
    EXT_MAGIC,
    EXT_VERSION,
    EXTENSION,
    FP32,
    FP32_UNPADDED,
    HEADER_BYTES,
    MODEL_INTS,
    CheckpointHeader,
    from_bf16,
)
from llmc.weights.lookup import tokenizer_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSIONS = {
    FP32_UNPADDED: "fp32, the vocabulary not padded",
    FP32: "fp32, the vocabulary padded",
    BF16: "bf16, the vocabulary padded",
}


@dataclass
class Contents:
    """What reading the tensors found.

    Attributes:
        crc: CRC-32 of all that follows the header.
        tensors: statistics by name, of those that are there.
        padding: values in wte's padding rows that are not zero.
        not_finite: NaNs and infinities in all tensors.
    """

    crc: int = 0
    tensors: dict[str, Moments] = field(default_factory=dict)
    padding: int = 0
    not_finite: int = 0


def describe_checkpoint(path: Path, asked: Asked) -> Description:
    """Describe a model checkpoint.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "checkpoint", "model checkpoint")
    raw, size = head_of(path, HEADER_BYTES), file_size(path)
    made.say("bytes", size, byte_count(size))
    if len(raw) < HEADER_BYTES:
        made.wrong(
            f"the header is cut short: {len(raw)} of its {HEADER_BYTES} bytes are there; "
            "get or make the file again"
        )
        return made
    header = _header(made, raw)
    if header is None:
        return made
    say_shape(made, header.config)
    _say_origin(made, raw, header)
    whole = _say_size(made, header, size)
    _say_contents(made, asked, header, size, whole)
    if whole:
        _say_tokenizer(made, asked, header)
    return made


def _header(made: Description, raw: bytes) -> CheckpointHeader | None:
    """Say what the first eight ints tell; None where they are no model's."""
    _, version, context, vocab_size, layers, heads, channels, padded = MODEL_INTS.unpack_from(raw)
    made.title = "model checkpoint, llm.c's format"
    made.say("version", version, f"{version}: {VERSIONS.get(version, 'not one that llmc knows')}")
    if version not in VERSIONS:
        made.wrong(
            f"it is a checkpoint of version {version}; llmc reads 1, 3 and 5: "
            "write it anew with 'llmc export-weights'"
        )
    shape = {
        "layers": layers,
        "heads": heads,
        "channels": channels,
        "context": context,
        "vocab_size": vocab_size,
    }
    try:
        config = ModelConfig(**shape)
    except Usage as error:
        made.say("shape", shape, ", ".join(f"{key} {value:,}" for key, value in shape.items()))
        made.wrong(f"its header is damaged: {error}; get or make the file again")
        return None
    if version in (FP32, BF16) and padded != config.padded_vocab_size:
        made.wrong(
            f"its header is damaged: a vocabulary of {vocab_size:,} is padded to "
            f"{config.padded_vocab_size:,}, not {padded:,}; get or make the file again"
        )
    return CheckpointHeader(config, version) if version in VERSIONS else None


def say_shape(made: Description, config: ModelConfig) -> None:
    """Say a model's shape and its parameters."""
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


def _say_origin(made: Description, raw: bytes, header: CheckpointHeader) -> None:
    """Say what llmc's extension of the header tells."""
    magic, version, crc, step, flags, loss, fingerprint = EXTENSION.unpack_from(raw, EXT_AT)
    made.say("dtype", header.dtype)
    if magic != EXT_MAGIC:
        made.say("written_by", "llm.c", "llm.c or another: the header has no extension of llmc's")
        return
    made.say("written_by", "llmc", f"llmc: header extension {version}")
    if version != EXT_VERSION:
        made.wrong(
            f"it was written by a newer llmc (header extension {version}, known: {EXT_VERSION}): "
            "upgrade llmc"
        )
        return
    made.say("step", step, f"{step:,}" if step else "0: not trained")
    known_loss = loss if flags & EXT_HAS_VAL_LOSS else None
    made.say("val_loss", known_loss, f"{loss:.6g}" if known_loss is not None else "not known")
    if known_loss is not None and not math.isfinite(loss):
        made.wrong(f"the validation loss it was saved at is {loss}")
    made.note("tokenizer", fingerprint.hex() if flags & EXT_HAS_TOKENIZER else None)
    made.note("crc32", f"{crc:08x}")


def _say_size(made: Description, header: CheckpointHeader, size: int) -> bool:
    """Hold the size against the header, and return whether they agree; say what is missing."""
    expected = header.file_bytes
    made.note("expected_bytes", expected)
    if size == expected:
        made.say("size", "as the header says", "as the header says")
        return True
    if size > expected:
        made.wrong(
            f"it is too long: the header promises {expected:,} bytes, and {size - expected:,} more "
            "follow; get or make the file again"
        )
        return False
    width = 2 if header.version == BF16 else 4
    end, whole = HEADER_BYTES, 0
    for shape in header.shapes.values():
        end += width * math.prod(shape)
        whole += end <= size
    made.say("whole_tensors", whole, f"the first {whole} of {len(header.shapes)} tensors are whole")
    made.wrong(
        f"it is cut short: the header promises {expected:,} bytes, and {expected - size:,} bytes "
        "are missing; get or make the file again"
    )
    return False


def _say_contents(
    made: Description, asked: Asked, header: CheckpointHeader, size: int, whole: bool
) -> None:
    """Read the tensors once: the checksum, the padding, and statistics where they are wanted."""
    promised = made.known("crc32")
    if not (asked.tensors or whole):
        return
    if not asked.reading.whole(size - HEADER_BYTES):
        made.say("checksum", None, "not verified: the file is large; --full reads all of it")
        return
    found = read_contents(made.path, header, asked.reading, statistics=asked.tensors)
    if promised is None:
        made.say("checksum", None, "none in the header: nothing to verify the weights by")
    elif whole and f"{found.crc:08x}" == promised:
        made.say("checksum", "verified", f"CRC-32 {promised}, verified")
    elif whole:
        made.say("checksum", "differs", f"CRC-32 {found.crc:08x}, not {promised}")
        made.wrong(
            f"it is damaged: its checksum is {found.crc:08x}, its header promises {promised}; "
            "get or make the file again"
        )
    if whole and header.version != FP32_UNPADDED:
        rows = header.config.padded_vocab_size - header.config.vocab_size
        made.say("padding", found.padding == 0, f"{rows} rows of wte, {_zero(found.padding)}")
        if found.padding:
            made.wrong(
                f"{found.padding:,} values in the padding rows of wte are not zero, as they "
                "should be"
            )
    if found.not_finite:
        made.wrong(f"{found.not_finite:,} weights are not finite numbers")
    if asked.tensors:
        say_tensors(made, header.shapes, found.tensors)


def _zero(count: int) -> str:
    return "all zero" if not count else f"{count:,} values not zero"


def say_tensors(
    made: Description, shapes: dict[str, tuple[int, ...]], moments: dict[str, Moments]
) -> None:
    """Add the table of tensors with their statistics."""
    rows, shown = [], []
    for name, shape in shapes.items():
        cells = moments[name].cells() if name in moments else (None,) * len(MOMENT_COLUMNS)
        rows.append((name, list(shape), *cells))
        shown.append((name, shown_shape(shape), *map(shown_cell, cells)))
    made.table("tensors", ("name", "shape", *MOMENT_COLUMNS), rows, shown=shown)


def shown_shape(shape: tuple[int, ...]) -> str:
    """Return a shape as ``12 × 2304 × 768``."""
    return " × ".join(map(str, shape)) if shape else "scalar"


def shown_cell(value: float | None) -> str:
    """Return a statistic in a few characters."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def read_contents(
    path: Path, header: CheckpointHeader, reading: Reading, *, statistics: bool
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
    end = min(file_size(path), header.file_bytes)
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
    """Say whether the tokenizer that the model speaks is in the workspace."""
    fingerprint = made.known("tokenizer")
    vocab_size = header.config.vocab_size
    try:
        found = asked.tokenizer or tokenizer_of(asked.workspace, made.path)
    except (LlmcError, OSError):
        return  # the checkpoint is damaged, as was said
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
