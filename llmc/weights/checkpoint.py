"""llm.c's model checkpoint: a header of 256 int32 and the tensors, nothing between.

``native/files/format.h`` is the source of truth for the layout. llmc writes versions 3 (fp32) and
5 (bfloat16) with an extension of the header, and also reads version 1 (fp32, unpadded). The
extension holds a checksum; files of llm.c, which lack it, load too.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llmc.errors import BadData, Usage
from llmc.kinds import Scan, not_data, read_strictly
from llmc.model import DIMENSIONS, ModelConfig, tensor_shapes
from llmc.paths import written_whole
from llmc.weights import base, number_types

if TYPE_CHECKING:
    from llmc.weights.number_types import Floats

HEADER_BYTES = 1024
MAGIC = 20240326
FP32_UNPADDED, FP32, BF16 = 1, 3, 5
TOKEN_MAGICS = (20240520, 20240801)
EXT_MAGIC, EXT_VERSION, EXT_VERSION_BARE = 0x434D4C4C, 2, 1
EXT_AT = 4 * 8
EXT_HAS_TOKENIZER, EXT_HAS_VAL_LOSS = 1, 2

# Ints 0 to 7; then the extension: magic, version, CRC-32, step, flags, loss, fingerprint.
MODEL_INTS = struct.Struct("<8i")
EXTENSION = struct.Struct("<IIIIIf32s")
HEADER_CRC_AT = 22  # an int
_AGAIN = "get or make the file again"


@dataclass(frozen=True)
class CheckpointHeader:
    """The header of a checkpoint."""

    config: ModelConfig
    version: int  # 1, 3 or 5
    crc: int | None = None  # CRC-32 of the payload; None in a file without llmc's extension
    step: int = 0  # the training step the weights were saved at; 0 if not trained
    val_loss: float | None = None  # the validation loss then, if known
    tokenizer: bytes | None = None  # the 32 bytes of the tokenizer's fingerprint, if known
    extension: int = 0  # the version of llmc's extension; 0 in a file without it

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

    def places(self, path: Path) -> dict[str, base.TensorPlace]:
        """Return where each tensor lies in the file ``path``."""
        kind = number_types.KINDS[self.dtype]
        return base.consecutive(path, kind, self.shapes, HEADER_BYTES)

    @property
    def file_bytes(self) -> int:
        """The exact size of the file."""
        count = sum(math.prod(shape) for shape in self.shapes.values())
        return HEADER_BYTES + number_types.stored_bytes(count, number_types.KINDS[self.dtype])


class CheckpointModel(base.Weights):
    """The weights in a checkpoint."""

    def __init__(self, path: Path) -> None:
        """Read and check the header; errors as in :func:`read_header`."""
        self.path = path

        def scan(place: Path, name: str) -> tuple[CheckpointHeader | None, list[str]]:
            self._held = base.HeldFile(place)  # a run that trains may replace it meanwhile
            with self._held.open() as file:
                return _scan(file, name)

        self.header = read_header(path, scan)
        self.config = self.header.config
        self.origin = base.Origin(self.header.step, self.header.val_loss, self.header.tokenizer)
        self._places = self.header.places(path)

    def stored(self, name: str, layer: int = 0) -> number_types.Stored:
        """Return one tensor of one layer, memory-mapped."""
        whole = self._places[name].stored(self._held)
        if name == "wte":
            return number_types.Stored(whole.kind, whole.values[: self.config.vocab_size])
        if name in base.UNSTACKED:
            return whole
        return number_types.Stored(whole.kind, whole.values[layer])

    def verify(self) -> None:
        """Compare the payload with the checksum, if there is one.

        Raises:
            BadData: they differ.
        """
        verify_checksum(self.path, self.header, self._held)


def checkpoint_bytes(config: ModelConfig, dtype: str) -> int:
    """Return the size of a checkpoint written as ``fp32`` or ``bf16``."""
    return CheckpointHeader(config, BF16 if dtype == "bf16" else FP32).file_bytes


class _Payload:
    """Writes a checkpoint's payload and computes its CRC-32."""

    def __init__(self, file: BinaryIO) -> None:
        self.crc = 0
        self._file = file

    def write(self, data: bytes | memoryview) -> None:
        self.crc = zlib.crc32(data, self.crc)
        self._file.write(data)


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
    kind = number_types.KINDS[dtype]
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        payload = _Payload(file)
        _write_tensors(payload, config, tensors, kind)
        header = CheckpointHeader(config, BF16 if kind == "BF16" else FP32)
        if extension:
            header = replace(
                header,
                crc=payload.crc,
                step=step,
                val_loss=val_loss,
                tokenizer=tokenizer,
                extension=EXT_VERSION,
            )
        file.seek(0)
        file.write(_packed(header))
    return header


def _write_tensors(
    payload: _Payload, config: ModelConfig, tensors: Iterable[tuple[str, Floats]], kind: str
) -> None:
    """Write all tensors, and zeros for the padding rows that ``wte`` lacks."""
    padding = config.padded_vocab_size - config.vocab_size
    expected, shape, left = "nothing", tuple[int, ...](), 0
    wanted = iter(tensor_shapes(config).items())
    for name, array in tensors:
        if expected == "wte" != name and left == padding:
            payload.write(bytes(number_types.stored_bytes(padding * config.channels, kind)))
            left = 0
        if left == 0:
            expected, shape = next(wanted, ("nothing", ()))
            left = shape[0] if shape else 0
        if name != expected or array.shape[1:] != shape[1:] or not 0 < len(array) <= left:
            raise ValueError(f"expected {expected} {shape}, got {name} {array.shape}")
        number_types.write_blocks(payload.write, number_types.Stored("F32", array).blocks(), kind)
        left -= len(array)
        del array  # free it before the next one is made
    missing = expected if left else next(wanted, (None,))[0]
    if missing is not None:
        raise ValueError(f"the tensors end before {missing}")


def read_header(path: Path, scan: Scan[CheckpointHeader] | None = None) -> CheckpointHeader:
    """Read and check a checkpoint's header: magic, version, dimensions, the exact size of the file.

    ``scan`` reads it; by default :func:`scan_header`.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is not a checkpoint, or a damaged one.
    """
    missing = f"no model {path}: run 'llmc export-weights gpt2' or 'llmc prepare NAME' to make one"
    return read_strictly(scan or scan_header, path, f"the model {path}", missing=missing)


def scan_header(path: Path, name: str = "it") -> tuple[CheckpointHeader | None, list[str]]:
    """Read the header of a checkpoint: a :data:`llmc.kinds.Scan`."""
    with path.open("rb") as file:
        return _scan(file, name)


def _scan(file: BinaryIO, name: str) -> tuple[CheckpointHeader | None, list[str]]:
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
            "write it again with 'llmc export-weights MODEL'"
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
    if size != header.file_bytes:
        apart = header.file_bytes - size
        what = "cut short" if apart > 0 else "too long"
        rest = f"{apart:,} bytes are missing" if apart > 0 else f"{-apart:,} more follow"
        problems.append(
            f"{name} is {what}: its header promises {header.file_bytes:,} bytes, and {rest}; "
            f"{_AGAIN}"
        )
    return header, problems + _extension_problems(raw, name)


def _extension_problems(raw: bytes, name: str) -> list[str]:
    """Return what is wrong with llmc's extension; llm.c leaves zero what it uses."""
    magic, version, *_ = EXTENSION.unpack_from(raw, EXT_AT)
    if not any(raw[EXT_AT : 4 * HEADER_CRC_AT + 4]):
        return []
    if magic != EXT_MAGIC:
        return [f"{name} has a damaged header: it is neither llm.c's nor llmc's; {_AGAIN}"]
    if version not in (EXT_VERSION, EXT_VERSION_BARE):
        known = f"known: {EXT_VERSION}"
        newer = f"was written by a newer llmc (header extension {version}, {known}): upgrade llmc"
        return [f"{name} {newer}"]
    problem = base.header_problem(raw, HEADER_CRC_AT, has_one=version == EXT_VERSION)
    return [f"{name} {problem}; {_AGAIN}"] if problem else []


def dimensions(raw: bytes) -> tuple[int, dict[str, int], int]:
    """Return version, shape and padded vocabulary from a header's bytes, valid or not."""
    _, version, context, vocab_size, layers, heads, channels, padded = MODEL_INTS.unpack_from(raw)
    shape = (layers, heads, channels, context, vocab_size)
    return version, dict(zip(DIMENSIONS, shape, strict=True)), padded


def _other_file(raw: bytes, name: str) -> str:
    """Return a sentence about a file that is not a checkpoint."""
    if int.from_bytes(raw[:4], "little") in TOKEN_MAGICS:
        return f"{name} holds tokens, not a model: it is for --data"
    found = "GGUF" if raw[:4] == b"GGUF" else f"the bytes {raw[:4].hex(' ') or '(none)'}"
    return not_data(raw, name) or (
        f"{name} is not a model checkpoint: it begins with {found} instead of {MAGIC}; "
        "convert weights from elsewhere with 'llmc export-weights MODEL'"
    )


def read_checkpoint(path: Path) -> tuple[CheckpointHeader, dict[str, Floats]]:
    """Read a whole checkpoint as float32: memory-mapped, or widened if it is bfloat16.

    Returns:
        The header, and the arrays in the shapes of :func:`~llmc.model.tensor_shapes`.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is not a checkpoint, or a damaged one.
    """
    import numpy as np

    header = read_header(path)
    verify_checksum(path, header)
    tensors = {}
    for name, place in header.places(path).items():
        stored = place.stored()
        tensors[name] = number_types.decoded(stored.values, stored.kind)
    missing = header.config.padded_vocab_size - len(tensors["wte"])
    if missing > 0:
        tensors["wte"] = np.pad(tensors["wte"], ((0, missing), (0, 0)))
    return header, tensors


def verify_checksum(
    path: Path, header: CheckpointHeader, held: base.HeldFile | None = None
) -> None:
    """Compare the payload with the header's CRC-32, if it has one; that of ``held`` if given.

    Raises:
        BadData: they differ.
    """
    if header.crc is None:
        return
    if (crc := base.payload_crc(held or path, HEADER_BYTES)) != header.crc:
        raise BadData(
            f"the model {path} is damaged: its checksum is {crc:08x}, its header promises "
            f"{header.crc:08x}; {_AGAIN}"
        )


def _with_extension(raw: bytes, header: CheckpointHeader) -> CheckpointHeader:
    magic, version, crc, step, flags, loss, fingerprint = EXTENSION.unpack_from(raw, EXT_AT)
    if magic != EXT_MAGIC:
        return header
    if version not in (EXT_VERSION, EXT_VERSION_BARE):
        return replace(header, extension=version)
    return replace(
        header,
        crc=crc,
        step=step,
        val_loss=loss if flags & EXT_HAS_VAL_LOSS else None,
        tokenizer=fingerprint if flags & EXT_HAS_TOKENIZER else None,
        extension=version,
    )


def _packed(header: CheckpointHeader) -> bytes:
    c = header.config
    shape = (c.context, c.vocab_size, c.layers, c.heads, c.channels, c.padded_vocab_size)
    packed = MODEL_INTS.pack(MAGIC, header.version, *shape)
    if header.extension:
        known, loss = header.tokenizer is not None, header.val_loss is not None
        flags = EXT_HAS_TOKENIZER * known | EXT_HAS_VAL_LOSS * loss
        packed += EXTENSION.pack(
            *(EXT_MAGIC, header.extension, header.crc or 0, header.step, flags),
            header.val_loss or 0.0,
            header.tokenizer or bytes(base.FINGERPRINT_BYTES),
        )
        packed += base.header_crc(packed.ljust(HEADER_BYTES, b"\0"), HEADER_CRC_AT).to_bytes(
            4, "little"
        )
    return packed.ljust(HEADER_BYTES, b"\0")


def is_trained(model: Path) -> bool:
    """Return whether weights have been trained: new ones scale by exactly 1 in every layernorm.

    Raises:
        BadData: they cannot be read.
    """
    scales = CheckpointModel(model).stored("lnfw")
    return any(bool((block != 1).any()) for block in scales.blocks())
