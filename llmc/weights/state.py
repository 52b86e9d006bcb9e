"""A run's training state, ``state.bin``: what a resume needs besides the weights.

``native/files/format.h`` is the source of truth for the layout; only the engine writes it.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData
from llmc.kinds import not_data
from llmc.model import ModelConfig, tensor_shapes

HEADER_BYTES = 1024
MAGIC, VERSION = 0x534D4C4C, 2
WINDOW = 128  # losses and gradient norms, float64, before AdamW's moments
MOMENTS_AT = HEADER_BYTES + 2 * WINDOW * 8
SHUFFLED, VALIDATED = 1, 2  # flags
# Magic, version, CRC-32, flags; step, metrics bytes, draws, seed, T, tokens an update; best loss,
# seconds, loss to beat; validations waited, updates skipped, steps judged; how AdamW's moments are
# stored.
FIELDS = struct.Struct("<IIII6Q3d3QI")
# How moments are stored: the name, the values in a block, and the bytes of a block.
MOMENTS = (("fp32", 1, 4), ("bf16", 1, 2), ("8bit", 256, 260))
PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class TrainingState:
    """The header of a training state.

    Attributes:
        crc: CRC-32 of the payload: the windows of losses and norms, AdamW's m, then v.
        shuffled: whether the data is shuffled.
        told: whether the step's validation and sample came before the state was saved.
        step: updates made.
        metrics_bytes: the length of metrics.jsonl at that step.
        draws: random numbers that samples have used.
        seed: the seed of the data order and of samples.
        seq_len: T.
        update_tokens: tokens in an update.
        best_val_loss: the lowest validation loss so far; None: there was no validation.
        seconds: training time over all resumes.
        to_beat: the validation loss that the next must be below; None: there was no validation.
        waited: validations since that one.
        skipped: skipped updates.
        judged: steps whose loss and norm are in the windows.
        optimizer_state: how m and v are stored: ``fp32``, ``bf16`` or ``8bit``.
        parameters: the parameters of the model, from the size of the file; for 8bit, at most this.
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
    state, problems = scan_training_state(path, str(path))
    if state is None or problems:
        raise BadData(problems[0])
    return state


def scan_training_state(path: Path, name: str = "it") -> tuple[TrainingState | None, list[str]]:
    """Read the header as far as it goes.

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
    if (sentence := not_data(raw, name)) is not None:
        return None, [sentence]
    if len(raw) < HEADER_BYTES:
        return None, [f"{name} is cut short: {len(raw)} of the header's {HEADER_BYTES} bytes"]
    magic, version, crc, flags, *numbers, stored_as = FIELDS.unpack_from(raw)
    if (magic, version) != (MAGIC, VERSION) or stored_as >= len(MOMENTS):
        return None, [f"{name} is not a training state of version {VERSION}"]
    step, metrics_bytes, draws, seed, T, tokens, *validated = numbers
    best, seconds, to_beat, waited, skipped, judged = validated
    optimizer_state, values, block_bytes = MOMENTS[stored_as]
    blocks, rest = divmod(size - MOMENTS_AT, 2 * block_bytes)
    problems = []
    if rest or blocks < 1:
        problems.append(f"{name} is cut short: {size:,} bytes do not hold two moments a parameter")
    state = TrainingState(
        crc,
        bool(flags & SHUFFLED),
        bool(flags & VALIDATED),
        step,
        metrics_bytes,
        draws,
        seed,
        T,
        tokens,
        None if best == math.inf else best,
        seconds,
        None if to_beat == math.inf else to_beat,
        waited,
        skipped,
        judged,
        optimizer_state,
        max(0, values * blocks),
    )
    return state, problems


def training_state_bytes(config: ModelConfig, optimizer_state: str) -> int:
    """Return the size of the training state of a model.

    Args:
        config: the model's shape.
        optimizer_state: how AdamW's moments are stored.
    """
    (values, block_bytes) = next(
        (values, size) for name, values, size in MOMENTS if name == optimizer_state
    )
    size = MOMENTS_AT
    for name, shape in tensor_shapes(config).items():
        # The tensor of every layer starts a new block.
        layers = 1 if name in ("wte", "wpe", "lnfw", "lnfb") else config.layers
        size += 2 * layers * -(-math.prod(shape) // layers // values) * block_bytes
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
