"""llm.c's model checkpoint: a header of 256 int32 and the tensors, nothing between.

``native/files/format.h`` is the source of truth for the layout. llmc writes versions 3 (fp32) and
5 (bfloat16) with an extension of the header, and also reads version 1 (fp32, unpadded). The
extension holds a checksum; files of llm.c, which lack it, load too.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmc.errors import BadData, MissingOutput, Usage
from llmc.kinds import not_data
from llmc.model import ModelConfig, tensor_shapes
from llmc.paths import written_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

HEADER_BYTES = 1024
MAGIC = 20240326
FP32_UNPADDED, FP32, BF16 = 1, 3, 5
TOKEN_MAGICS = (20240520, 20240801)
EXT_MAGIC, EXT_VERSION = 0x434D4C4C, 1
EXT_AT = 4 * 8
EXT_HAS_TOKENIZER, EXT_HAS_VAL_LOSS = 1, 2
FINGERPRINT_BYTES = 32

# Ints 0 to 7; then the extension: magic, version, CRC-32, step, flags, loss, fingerprint.
MODEL_INTS = struct.Struct("<8i")
EXTENSION = struct.Struct("<IIIIIf32s")

PIECE_ELEMENTS = 1 << 22  # values converted, checksummed and written at a time


@dataclass(frozen=True)
class CheckpointHeader:
    """The header of a checkpoint.

    Attributes:
        config: the model's shape.
        version: 1, 3 or 5.
        crc: CRC-32 of the payload; None in a file without llmc's extension.
        step: the training step the weights were saved at; 0 if not trained.
        val_loss: the validation loss then, if known.
        tokenizer: the 32 bytes of the tokenizer's SHA-256 fingerprint, if known.
        extension: the version of llmc's extension; 0 in a file without it.
    """

    config: ModelConfig
    version: int
    crc: int | None = None
    step: int = 0
    val_loss: float | None = None
    tokenizer: bytes | None = None
    extension: int = 0

    @property
    def dtype(self) -> str:
        """``fp32`` or ``bf16``."""
        return "bf16" if self.version == BF16 else "fp32"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes in the file: version 1 does not pad the vocabulary."""
        shapes = tensor_shapes(self.config)
        if self.version == FP32_UNPADDED:
            shapes["wte"] = (self.config.vocab_size, self.config.channels)
        return shapes

    @property
    def file_bytes(self) -> int:
        """The exact size of the file."""
        width = 2 if self.version == BF16 else 4
        return HEADER_BYTES + width * sum(math.prod(shape) for shape in self.shapes.values())


def checkpoint_bytes(config: ModelConfig, dtype: str) -> int:
    """Return the size of a checkpoint written as ``fp32`` or ``bf16``."""
    return CheckpointHeader(config, BF16 if dtype == "bf16" else FP32).file_bytes


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """Round float32 to the bits of bfloat16, to the nearest, ties to even; a NaN stays a NaN."""
    import numpy as np

    bits = values.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bf16(bits: NDArray[np.uint16]) -> Floats:
    """Widen the bits of bfloat16 to float32, exactly."""
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_checkpoint(
    path: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Floats]],
    *,
    dtype: str = "fp32",
    tokenizer: bytes | None = None,
    step: int = 0,
    val_loss: float | None = None,
    extension: bool = True,
) -> CheckpointHeader:
    """Write a checkpoint, whole or not at all, and return its header.

    Args:
        path: the file.
        config: the model's shape.
        tensors: names and float32 arrays in the order of :func:`~llmc.model.tensor_shapes`, taken
            one at a time. A tensor may come as consecutive slices along its first axis. ``wte``
            may lack its padding rows.
        dtype: ``fp32`` (version 3) or ``bf16`` (version 5).
        tokenizer: the 32-byte fingerprint of the tokenizer the model belongs to.
        step: the training step.
        val_loss: the validation loss at that step.
        extension: write llmc's extension of the header; without it, the file is byte for byte
            llm.c's.

    Raises:
        BadData: the disk is full or the place cannot be written.
        ValueError: the tensors are not the model's.
    """
    version, width = (BF16, 2) if dtype == "bf16" else (FP32, 4)
    padding = config.padded_vocab_size - config.vocab_size
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        crc, expected, shape, left = 0, "nothing", tuple[int, ...](), 0
        wanted = iter(tensor_shapes(config).items())
        for name, array in tensors:
            if expected == "wte" != name and left == padding:
                crc, left = _write_zeros(file, padding * config.channels * width, crc), 0
            if left == 0:
                expected, shape = next(wanted, ("nothing", ()))
                left = shape[0] if shape else 0
            if name != expected or array.shape[1:] != shape[1:] or not 0 < len(array) <= left:
                raise ValueError(f"expected {expected} {shape}, got {name} {array.shape}")
            crc = _write_tensor(file, array, dtype, crc)
            left -= len(array)
            del array  # free it before the next one is made
        missing = expected if left else next(wanted, (None,))[0]
        if missing is not None:
            raise ValueError(f"the tensors end before {missing}")
        header = CheckpointHeader(config, version, crc, step, val_loss, tokenizer, EXT_VERSION)
        file.seek(0)
        file.write(_packed(header) if extension else _model_ints(header).ljust(HEADER_BYTES, b"\0"))
    return header


def read_header(path: Path) -> CheckpointHeader:
    """Read and check a checkpoint's header: magic, version, dimensions, the exact size of the file.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is not a checkpoint, or a damaged one.
    """
    try:
        header, problems = scan_header(path, f"the model {path}")
    except FileNotFoundError as error:
        raise MissingOutput(
            f"no model {path}: run 'llmc export-weights gpt2' or 'llmc prepare' to make one"
        ) from error
    except OSError as error:
        raise BadData(f"cannot read the model {path}: {error.strerror}") from error
    if header is None or problems:
        raise BadData(problems[0])
    return header


def scan_header(path: Path, name: str = "it") -> tuple[CheckpointHeader | None, list[str]]:
    """Read a checkpoint's header as far as it goes.

    Args:
        path: the file.
        name: how the problems call the file.

    Returns:
        The header, or None if it cannot be used, and the problems, a sentence each.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
        size = file.seek(0, 2)
    magic = int.from_bytes(raw[:4], "little") if len(raw) >= 4 else None
    if magic != MAGIC:
        return None, [_other_file(raw, name)]
    if len(raw) < HEADER_BYTES:
        return None, [
            f"{name} is cut short: it has {len(raw)} bytes of its header's {HEADER_BYTES}; {_AGAIN}"
        ]
    version, shape, padded = dimensions(raw)
    if version not in (FP32_UNPADDED, FP32, BF16):
        return None, [
            f"{name} is a checkpoint of version {version}; llmc reads 1, 3 and 5: "
            "write it again with 'llmc export-weights'"
        ]
    try:
        config = ModelConfig(**shape)
    except Usage as error:
        return None, [f"{name} has a damaged header: {error}; {_AGAIN}"]
    problems = []
    if version != FP32_UNPADDED and padded != config.padded_vocab_size:
        problems.append(
            f"{name} has a damaged header: a vocabulary of {config.vocab_size} is padded to "
            f"{config.padded_vocab_size}, not {padded}; {_AGAIN}"
        )
    header = _with_extension(raw, CheckpointHeader(config, version))
    if header.extension not in (0, EXT_VERSION):
        problems.append(
            f"{name} was written by a newer llmc (header extension {header.extension}, "
            f"known: {EXT_VERSION}): upgrade llmc"
        )
    if size != header.file_bytes:
        apart = header.file_bytes - size
        what = "cut short" if apart > 0 else "too long"
        rest = f"{apart:,} bytes are missing" if apart > 0 else f"{-apart:,} more follow"
        problems.append(
            f"{name} is {what}: its header promises {header.file_bytes:,} bytes, and {rest}; "
            f"{_AGAIN}"
        )
    return header, problems


def dimensions(raw: bytes) -> tuple[int, dict[str, int], int]:
    """Return version, shape and padded vocabulary from a header's bytes, valid or not."""
    _, version, context, vocab_size, layers, heads, channels, padded = MODEL_INTS.unpack_from(raw)
    shape = {
        "layers": layers,
        "heads": heads,
        "channels": channels,
        "context": context,
        "vocab_size": vocab_size,
    }
    return version, shape, padded


def _other_file(raw: bytes, name: str) -> str:
    """Return a sentence about a file that is no checkpoint."""
    if int.from_bytes(raw[:4], "little") in TOKEN_MAGICS:
        return f"{name} holds tokens, not a model: name it with --data, not --model"
    found = "GGUF" if raw[:4] == b"GGUF" else f"the bytes {raw[:4].hex(' ') or '(none)'}"
    return not_data(raw, name) or (
        f"{name} is not a model checkpoint: it begins with {found} instead of {MAGIC}; "
        "convert weights from elsewhere with 'llmc export-weights'"
    )


def read_checkpoint(
    path: Path, *, verify: bool = True
) -> tuple[CheckpointHeader, dict[str, Floats]]:
    """Read a whole checkpoint as float32: memory-mapped, or widened if it is bfloat16.

    Args:
        path: the file.
        verify: compare the payload with the checksum, where the file has one.

    Returns:
        The header, and the arrays in the shapes of :func:`tensor_shapes`.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is not a checkpoint, or a damaged one.
    """
    header = read_header(path)
    if verify:
        verify_checksum(path, header)
    return header, dict(read_tensors(path, header))


def read_tensors(path: Path, header: CheckpointHeader) -> Iterator[tuple[str, Floats]]:
    """Yield names and float32 arrays one at a time; see :func:`read_checkpoint`."""
    import numpy as np

    bf16 = header.version == BF16
    offset = HEADER_BYTES
    for name, shape in header.shapes.items():
        stored: NDArray[Any] = np.memmap(path, "<u2" if bf16 else "<f4", "r", offset, shape)
        offset += stored.nbytes
        values = from_bf16(stored) if bf16 else stored
        if name == "wte" and (missing := header.config.padded_vocab_size - shape[0]) > 0:
            values = np.pad(values, ((0, missing), (0, 0)))
        yield name, values


def verify_checksum(path: Path, header: CheckpointHeader) -> None:
    """Compare the payload with the header's CRC-32, if it has one.

    Raises:
        BadData: they differ.
    """
    if header.crc is None:
        return
    crc = 0
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while piece := file.read(1 << 24):
            crc = zlib.crc32(piece, crc)
    if crc != header.crc:
        raise BadData(
            f"the model {path} is damaged: its checksum is {crc:08x}, its header promises "
            f"{header.crc:08x}; {_AGAIN}"
        )


_AGAIN = "get or make the file again"


def _with_extension(raw: bytes, header: CheckpointHeader) -> CheckpointHeader:
    magic, version, crc, step, flags, loss, fingerprint = EXTENSION.unpack_from(raw, EXT_AT)
    if magic != EXT_MAGIC:
        return header
    if version != EXT_VERSION:
        return replace(header, extension=version)
    return CheckpointHeader(
        header.config,
        header.version,
        crc,
        step,
        loss if flags & EXT_HAS_VAL_LOSS else None,
        fingerprint if flags & EXT_HAS_TOKENIZER else None,
        version,
    )


def _model_ints(header: CheckpointHeader) -> bytes:
    config = header.config
    return MODEL_INTS.pack(
        MAGIC,
        header.version,
        config.context,
        config.vocab_size,
        config.layers,
        config.heads,
        config.channels,
        config.padded_vocab_size,
    )


def _packed(header: CheckpointHeader) -> bytes:
    known, loss = header.tokenizer is not None, header.val_loss is not None
    extension = EXTENSION.pack(
        EXT_MAGIC,
        EXT_VERSION,
        header.crc or 0,
        header.step,
        EXT_HAS_TOKENIZER * known | EXT_HAS_VAL_LOSS * loss,
        header.val_loss or 0.0,
        header.tokenizer or bytes(FINGERPRINT_BYTES),
    )
    return (_model_ints(header) + extension).ljust(HEADER_BYTES, b"\0")


def _write_tensor(file: BinaryIO, array: Floats, dtype: str, crc: int) -> int:
    import numpy as np

    flat = np.ascontiguousarray(array, "<f4").reshape(-1)
    for start in range(0, flat.size, PIECE_ELEMENTS):
        piece = flat[start : start + PIECE_ELEMENTS]
        data = (to_bf16(piece).astype("<u2") if dtype == "bf16" else piece).tobytes()
        crc = zlib.crc32(data, crc)
        file.write(data)
    return crc


def _write_zeros(file: BinaryIO, count: int, crc: int) -> int:
    zeros = bytes(count)
    file.write(zeros)
    return zlib.crc32(zeros, crc)
