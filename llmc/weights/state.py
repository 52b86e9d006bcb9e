"""A run's training state, ``state.bin``: what a resume needs besides the weights.

``native/files/format.h`` is the source of truth for the layout; only the engine writes it.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from llmc.config import OPTIMIZERS
from llmc.errors import BadData
from llmc.kinds import not_data, read_strictly
from llmc.model import HIDDEN_MATRICES, ModelConfig, tensor_shapes
from llmc.weights import base

HEADER_BYTES = 1024
MAGIC, VERSION_BARE, VERSION, VERSION_SHARES = 0x534D4C4C, 2, 3, 4
HEADER_CRC_AT = 29  # an int; version 2 has none
WINDOW = 128  # losses and gradient norms, float64, before the optimizer's moments
MOMENTS_AT = HEADER_BYTES + 2 * WINDOW * 8
SHUFFLED, VALIDATED = 1, 2  # flags
# Magic, version, CRC-32, flags; STORED_FIELDS, where a loss that is infinite does not exist; how
# the moments are stored, an index into MOMENTS; the header's CRC-32, the planned steps; the
# optimizer, an index into OPTIMIZERS; the shares, 0 before version 4.
FIELDS = struct.Struct("<IIII6Q3d3QIIQII")
# How moments are stored: the name, the values in a block, and the bytes of a block.
MOMENTS = (("fp32", 1, 4), ("bf16", 1, 2), ("8bit", 256, 260))


@dataclass(frozen=True)
class TrainingState:
    """The header of a training state."""

    crc: int  # CRC-32 of the payload: the windows of losses and norms, the moments m, then v
    shuffled: bool  # the data is shuffled
    told: bool  # the step's validation and sample came before the state was saved
    step: int  # updates made
    metrics_bytes: int  # the length of metrics.jsonl at that step
    draws: int  # random numbers that samples have used
    seed: int  # of the data order and of samples
    seq_len: int  # T
    update_tokens: int  # tokens in an update
    best_val_loss: float | None  # the lowest so far; None: there was no validation
    seconds: float  # training time over all resumes
    to_beat: float | None  # the loss that a validation has to go below; None: there was none
    waited: int  # validations since that one
    skipped: int  # skipped updates
    judged: int  # steps whose loss and norm are in the windows
    optimizer: str  # adamw or muon
    shares: int  # in which the gradient of an update is added up
    optimizer_state: str  # how m and v are stored: fp32, bf16 or 8bit
    # Of the model, from the size of the file; for 8bit, at most this. None: a state of Muon, whose
    # size depends on the model's shape too.
    parameters: int | None


STORED_FIELDS = [field.name for field in dataclasses.fields(TrainingState)][3:15]


def read_training_state(path: Path) -> TrainingState:
    """Read and check the header.

    Raises:
        BadData: it is not a training state, one of another version, or cut short.
    """
    return read_strictly(scan_training_state, path)


def scan_training_state(path: Path, name: str = "it") -> tuple[TrainingState | None, list[str]]:
    """Read the header of a training state: a :data:`llmc.kinds.Scan`."""
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
        size = file.seek(0, 2)
    if (sentence := not_data(raw, name)) is not None:
        return None, [sentence]
    if len(raw) < HEADER_BYTES:
        return None, [f"{name} is cut short: {len(raw)} of the header's {HEADER_BYTES} bytes"]
    magic, version, crc, flags, *numbers, stored_as, _, _, trained_by, shares = FIELDS.unpack_from(
        raw
    )
    if magic != MAGIC or not VERSION_BARE <= version <= VERSION_SHARES:
        return None, [
            f"{name} is not a training state of version {VERSION_BARE} to {VERSION_SHARES}"
        ]
    problem = base.header_problem(raw, HEADER_CRC_AT, has_one=version > VERSION_BARE)
    if problem is not None or stored_as >= len(MOMENTS):
        return None, [f"{name} {problem or 'has moments of an unknown type'}"]
    if trained_by >= len(OPTIMIZERS):
        return None, [f"{name} is the state of an unknown optimizer"]
    muon = OPTIMIZERS[trained_by] == "muon"
    optimizer_state, values, block_bytes = MOMENTS[stored_as]
    blocks, rest = divmod(size - MOMENTS_AT, block_bytes if muon else 2 * block_bytes)
    problems = []
    if rest or blocks < 1:
        problems.append(f"{name} is cut short: {size:,} bytes do not hold whole moments")
    fields = dict(zip(STORED_FIELDS, numbers, strict=True))
    fields |= {name: None for name in ("best_val_loss", "to_beat") if fields[name] == math.inf}
    state = TrainingState(
        crc,
        shuffled=bool(flags & SHUFFLED),
        told=bool(flags & VALIDATED),
        **fields,
        optimizer=OPTIMIZERS[trained_by],
        shares=max(shares, 1),
        optimizer_state=optimizer_state,
        parameters=None if muon else max(0, values * blocks),
    )
    return state, problems


def training_state_bytes(
    config: ModelConfig, optimizer_state: str, optimizer: str = "adamw"
) -> int:
    """Return the size of a model's training state; ``optimizer_state`` is a name in ``MOMENTS``."""
    values, block_bytes = next(sizes for name, *sizes in MOMENTS if name == optimizer_state)
    size = MOMENTS_AT
    for name, shape in tensor_shapes(config).items():
        # The tensor of every layer starts a new block.
        layers = 1 if name in base.UNSTACKED else config.layers
        moments = 1 if optimizer == "muon" and name in HIDDEN_MATRICES else 2
        size += moments * layers * -(-math.prod(shape) // layers // values) * block_bytes
    return size


def verify_training_state(path: Path, state: TrainingState) -> None:
    """Compare the payload with its checksum.

    Raises:
        BadData: they differ.
    """
    if (crc := base.payload_crc(path, HEADER_BYTES)) != state.crc:
        raise BadData(
            f"{path} is damaged: its checksum is {crc:08x}, its header promises {state.crc:08x}"
        )
