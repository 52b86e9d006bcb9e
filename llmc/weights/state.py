"""A run's training state, ``state.bin``: what it needs besides the weights to go on.

``native/files/format.h`` is the source of truth for the layout; the engine alone writes it.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData
from llmc.model import ModelConfig, tensor_shapes

HEADER_BYTES = 1024
MAGIC, VERSION = 0x534D4C4C, 2
WINDOW = 128  # of losses and of norms, float64, before AdamW's means
MEANS_AT = HEADER_BYTES + 2 * WINDOW * 8
SHUFFLED, TOLD = 1, 2  # flags
# Magic, version, CRC-32, flags; step, metrics bytes, draws, seed, T, tokens an update; best loss,
# seconds, loss to beat; validations waited, updates skipped, steps judged; how AdamW's means are
# stored.
FIELDS = struct.Struct("<IIII6Q3d3QI")
# Their names there, the numbers that are stored together, and the bytes that these take.
MEANS = (("fp32", 1, 4), ("bf16", 1, 2), ("8bit", 256, 260))
PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class TrainingState:
    """What the header of a training state says.

    Attributes:
        crc: CRC-32 of the payload: the windows of losses and norms, AdamW's m, then v.
        shuffled: whether the data is.
        told: whether the step's validation and sample came before.
        step: updates made.
        metrics_bytes: of metrics.jsonl, all that was told until then.
        draws: random numbers that samples used up.
        seed: of the order of the data and of samples.
        seq_len: T.
        update_tokens: tokens in an update.
        best_val_loss: the lowest of the checkpoints so far; None: there was no validation.
        seconds: trained, over all resumes.
        to_beat: the validation loss that the next must be below; None: there was no validation.
        waited: validations since that one.
        skipped: updates that were not made.
        judged: steps whose loss and norm were taken into the windows.
        optimizer_state: how m and v are stored: ``fp32``, ``bf16`` or ``8bit``.
        parameters: of the model, by the size of the file; of blocks of 8bit, at most so many.
    """

    crc: int
    shuffled: bool
    told: bool
    step: int
    metrics_bytes: int
    draws: int
    seed: int
    seq_len: int
    update_tokens: int
    best_val_loss: float | None
    seconds: float
    to_beat: float | None
    waited: int
    skipped: int
    judged: int
    optimizer_state: str
    parameters: int


def read_training_state(path: Path) -> TrainingState:
    """Read and check the header.

    Raises:
        BadData: it is no training state, one of another version, or cut short.
    """
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
        size = file.seek(0, 2)
    if len(raw) < HEADER_BYTES:
        raise BadData(f"{path} is cut short: {len(raw)} of the header's {HEADER_BYTES} bytes")
    magic, version, crc, flags, *counts = FIELDS.unpack_from(raw)
    (
        step,
        told_bytes,
        draws,
        seed,
        T,
        tokens,
        best,
        seconds,
        to_beat,
        waited,
        skipped,
        judged,
        means,
    ) = counts
    if (magic, version) != (MAGIC, VERSION) or means >= len(MEANS):
        raise BadData(f"{path} is not a training state of version {VERSION}")
    name, together, stored_bytes = MEANS[means]
    blocks, rest = divmod(size - MEANS_AT, 2 * stored_bytes)
    if rest or blocks < 1:
        raise BadData(f"{path} is cut short: {size:,} bytes do not hold two numbers a parameter")
    return TrainingState(
        crc,
        bool(flags & SHUFFLED),
        bool(flags & TOLD),
        step,
        told_bytes,
        draws,
        seed,
        T,
        tokens,
        None if best == float("inf") else best,
        seconds,
        None if to_beat == float("inf") else to_beat,
        waited,
        skipped,
        judged,
        name,
        together * blocks,
    )


def training_state_bytes(config: ModelConfig, optimizer_state: str) -> int:
    """Return the size of the training state of a model, its means stored as that says."""
    (together, stored_bytes) = next(
        (count, size) for name, count, size in MEANS if name == optimizer_state
    )
    size = MEANS_AT
    for name, shape in tensor_shapes(config).items():
        # A tensor of every layer begins a block anew in each.
        layers = 1 if name in ("wte", "wpe", "lnfw", "lnfb") else config.layers
        size += 2 * layers * -(-math.prod(shape) // layers // together) * stored_bytes
    return size


def verify_training_state(path: Path, state: TrainingState) -> None:
    """Compare the payload with its checksum.

    Raises:
        BadData: they differ.
    """
    crc = 0
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while piece := file.read(PIECE_BYTES):
            crc = zlib.crc32(piece, crc)
    if crc != state.crc:
        raise BadData(
            f"{path} is damaged: its checksum is {crc:08x}, its header promises {state.crc:08x}"
        )
