"""Whether named tensors are a GPT-2's, under Hugging Face's names or GGUF's; and of what shape."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmc.errors import Usage
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights import gguf
from llmc.weights.huggingface import HEAD_SIZE, MASK, NAMES, PREFIX

MOST_LAYERS = 1 << 12

Shape = tuple[int, ...]


def huggingface_gpt2(shapes: Mapping[str, Shape], heads: int | None) -> ModelConfig | str:
    """Return the shape of a GPT-2 under Hugging Face's names, or why they are none.

    Args:
        shapes: by name, with or without the prefix and the masks.
        heads: as a config.json tells them; None: of 64 channels, as OpenAI's have.
    """
    short = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    found = {name: shape for name, shape in short.items() if not MASK.fullmatch(name)}
    layers = _layers(found, r"h\.(\d+)\.")
    config = _config(found.get("wte.weight"), found.get("wpe.weight"), layers, heads)
    if isinstance(config, str):
        return config
    wanted: dict[str, Shape] = {}
    for name, shape in tensor_shapes(config).items():
        theirs, conv1d = NAMES[name]
        if "{}" not in theirs:
            wanted[theirs] = shape
            continue
        one = shape[:0:-1] if conv1d else shape[1:]
        wanted |= {theirs.format(layer): one for layer in range(layers)}
    wanted["wte.weight"] = (config.vocab_size, config.channels)
    return _difference(found, wanted, {"lm_head.weight": wanted["wte.weight"]}) or config


def gguf_gpt2(shapes: Mapping[str, Shape], heads: int | None) -> ModelConfig | str:
    """Return the shape of a GPT-2 under GGUF's names, or why they are none.

    The shapes are as in memory: GGUF lists the fastest dimension first, this does not.
    """
    layers = _layers(shapes, r"blk\.(\d+)\.")
    embeddings = (shapes.get("token_embd.weight"), shapes.get("position_embd.weight"))
    config = _config(*embeddings, layers, heads)
    if isinstance(config, str):
        return config
    wanted: dict[str, Shape] = {}
    for name, shape in tensor_shapes(config).items():
        theirs = gguf.NAMES[name]
        if "{}" in theirs:
            wanted |= {theirs.format(layer): shape[1:] for layer in range(layers)}
        else:
            wanted[theirs] = shape
    wanted["token_embd.weight"] = (config.vocab_size, config.channels)
    optional = {"output.weight": wanted["token_embd.weight"]}
    return _difference(shapes, wanted, optional) or config


def _layers(names: Mapping[str, Shape], pattern: str) -> int:
    found = {match[1] for name in names if (match := re.match(pattern, name, re.ASCII))}
    return len(found)


def _config(
    wte: Shape | None, wpe: Shape | None, layers: int, heads: int | None
) -> ModelConfig | str:
    if wte is None or wpe is None or len(wte) != 2 or len(wpe) != 2 or not layers:
        return "it lacks token embeddings, position embeddings or layers of these names"
    if layers > MOST_LAYERS:
        return f"{layers:,} layers are more than any has"
    (vocab_size, channels), (context, _) = wte, wpe
    if heads is None and channels % HEAD_SIZE:
        return f"nothing tells its heads, and 64 does not divide its {channels:,} channels"
    try:
        return ModelConfig(layers, heads or channels // HEAD_SIZE, channels, context, vocab_size)
    except Usage as error:
        return str(error)


def _difference(
    found: Mapping[str, Shape], wanted: Mapping[str, Shape], optional: Mapping[str, Shape]
) -> str | None:
    """Return the first difference between the tensors that are there and those of a GPT-2."""
    for name, shape in wanted.items():
        if name not in found:
            return f"it has no tensor {name}"
        if found[name] != shape:
            return f"{name} has the shape {list(found[name])}, not {list(shape)}"
    for name in found:
        if name not in wanted and name not in optional:
            return f"it has a tensor {name}, which a GPT-2 has not"
    return None
