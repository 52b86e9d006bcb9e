"""Small models and token files, for the tests of the engine and of what reads its files."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens.files import write_tokens
from llmc.weights.checkpoint import checkpoint_bytes, write_checkpoint
from tests.helpers.engine import Flags

Floats = NDArray[np.float32]
SMALL = ModelConfig(layers=2, heads=4, channels=64, context=64, vocab_size=512)
# Nothing here is a multiple of any vector, tile or block.
RAGGED = ModelConfig(layers=3, heads=5, channels=40, context=41, vocab_size=301)


def some_tensors(config: ModelConfig, seed: int = 7) -> dict[str, Floats]:
    """Return weights in which every bias and every norm counts, and logits are of some size."""
    generator = np.random.default_rng(seed)
    made = {}
    for name, shape in tensor_shapes(config).items():
        values = generator.standard_normal(shape, np.float32)
        values *= 0.1 if len(shape) > 1 and not name.endswith("b") else 0.05
        made[name] = values + np.float32(name in ("ln1w", "ln2w", "lnfw"))
    made["wte"][config.vocab_size :] = 0
    return made


def save_model(
    path: Path, config: ModelConfig, tensors: Mapping[str, Floats] | None = None
) -> Path:
    write_checkpoint(path, config, iter((tensors or some_tensors(config)).items()))
    return path


def hollow_model(path: Path, m: ModelConfig) -> Path:
    """Write a header, and a hole of the model's size: enough for a plan, on any disk."""
    header = np.zeros(256, "<i4")
    shape = (m.context, m.vocab_size, m.layers, m.heads, m.channels, m.padded_vocab_size)
    header[:8] = (20240326, 3, *shape)
    path.write_bytes(header.tobytes())
    os.truncate(path, checkpoint_bytes(m, "fp32"))
    return path


def save_tokens(path: Path, tokens: NDArray[np.integer[Any]], vocab_size: int) -> Path:
    write_tokens(path, [tokens], vocab_size)
    return path


def training_files(folder: Path, config: ModelConfig, tokens: int = 1200) -> Flags:
    """Write a model and random tokens to train and to validate on; return the flags naming them."""
    V = config.vocab_size
    return {
        "model": save_model(folder / "model.bin", config),
        "data": save_tokens(folder / "train.bin", random_tokens(tokens, V), V),
        "val_data": save_tokens(folder / "val.bin", random_tokens(tokens // 3, V, 4), V),
    }


def random_tokens(count: int, vocab_size: int, seed: int = 3) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, vocab_size, count)


def with_header_crc(state: bytes | bytearray) -> bytes:
    """Return a training state whose header has the checksum of what it says."""
    at = 4 * 29
    header = state[:at] + bytes(4) + state[at + 4 : 1024]
    return bytes(header[:at] + zlib.crc32(header).to_bytes(4, "little") + state[at + 4 :])
