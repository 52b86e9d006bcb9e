"""Write a folder that Hugging Face's ``AutoModelForCausalLM`` opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.base import UNSTACKED, Origin, Weights
from llmc.weights.huggingface import CONFIG_FILE, NAMES, PREFIX, SAFETENSORS, metadata_of
from llmc.weights.safetensors import Planned, transposed, write_safetensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

GENERATION_FILE = "generation_config.json"
FILES = (CONFIG_FILE, GENERATION_FILE, SAFETENSORS)
TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def write_hf_folder(
    folder: Path, weights: Weights, kind: str, *, eot: int | None, origin: Origin
) -> None:
    """Write config.json, generation_config.json and model.safetensors into a folder.

    The weights are one file, as in every GPT-2 that OpenAI published, the largest included.

    Args:
        folder: an existing folder.
        weights: the model.
        kind: ``F32``, ``F16`` or ``BF16``.
        eot: the id that begins and ends a text; None if the tokenizer is not known.
        origin: kept in the file's metadata.

    Raises:
        BadData: a number is too large for F16.
        OSError: the disk is full.
    """
    settings: dict[str, object] = {"bos_token_id": eot, "eos_token_id": eot}
    _write_json(folder / CONFIG_FILE, _config(weights.config, kind) | settings)
    _write_json(folder / GENERATION_FILE, settings | {"_from_model_config": True})
    write_safetensors(folder / SAFETENSORS, _plan(weights, kind), metadata_of(origin))


def _config(config: ModelConfig, kind: str) -> dict[str, object]:
    """Return the fields of ``GPT2Config``; llmc trains without dropout."""
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": config.context,
        "n_embd": config.channels,
        "n_head": config.heads,
        "n_inner": None,
        "n_layer": config.layers,
        "n_positions": config.context,
        "resid_pdrop": 0.0,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "torch_dtype": TORCH_DTYPES[kind],
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _plan(weights: Weights, kind: str) -> Iterator[Planned]:
    """Yield the tensors in the model's order, Conv1D as (in, out), without the tied head."""
    shapes = tensor_shapes(weights.config)
    shapes["wte"] = (weights.config.vocab_size, weights.config.channels)
    for name in ("wte", "wpe"):
        yield Planned(PREFIX + NAMES[name][0], kind, shapes[name], _blocks(weights, name))
    for layer in range(weights.config.layers):
        for name, (theirs, conv1d) in NAMES.items():
            if name not in UNSTACKED:
                shape = shapes[name][1:]
                blocks = _blocks(weights, name, layer)
                yield Planned(
                    PREFIX + theirs.format(layer),
                    kind,
                    shape[::-1] if conv1d else shape,
                    transposed(blocks) if conv1d else blocks,
                )
    for name in ("lnfw", "lnfb"):
        yield Planned(PREFIX + NAMES[name][0], kind, shapes[name], _blocks(weights, name))


def _blocks(weights: Weights, name: str, layer: int = 0) -> Iterator[Floats]:
    """Yield a tensor's blocks; the tensor is opened when the first is needed."""
    yield from weights.stored(name, layer).blocks()


def _write_json(path: Path, table: dict[str, object]) -> None:
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
