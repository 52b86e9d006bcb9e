"""Files as others write them: by their own libraries, or by hand as specified."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from llmc.model import ModelConfig
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.gguf import NAMES as GGUF_NAMES
from llmc.weights.huggingface import CONV1D, NAMES
from tests.helpers.models import some_tensors

Q8_0 = gguf.GGMLQuantizationType.Q8_0


def write_tokenizer_bin(path: Path, tokenizer: Tokenizer) -> Path:
    """Write llm.c's tokenizer.bin, version 2."""
    header = struct.pack("<4I", 20240328, 2, tokenizer.vocab_size, tokenizer.eot)
    tokens = [*tokenizer.tokens(), b"<|endoftext|>"]
    body = b"".join(bytes([len(token)]) + token for token in tokens)
    path.write_bytes(header.ljust(1024, b"\0") + body)
    return path


def write_gguf(path: Path, config: ModelConfig, *, quantize: str | None = None) -> Path:
    """Write a GPT-2 with the gguf package; ``quantize`` names a tensor to store as Q8_0."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.channels)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(4 * config.channels)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{number}" for number in range(config.vocab_size)])
    writer.add_token_types([1] * (config.vocab_size - 1) + [3])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(config.vocab_size - 1)
    writer.add_eos_token_id(config.vocab_size - 1)
    for name, values in some_tensors(config).items():
        if "{}" not in (theirs := GGUF_NAMES[name]):
            writer.add_tensor(theirs, values[: config.vocab_size] if name == "wte" else values)
            continue
        for layer, one in enumerate(values):
            if name == quantize:
                packed = gguf.quants.quantize(np.ascontiguousarray(one), Q8_0)
                writer.add_tensor(theirs.format(layer), packed, raw_dtype=Q8_0)
            else:
                writer.add_tensor(theirs.format(layer), np.ascontiguousarray(one))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def huggingface_tensors(config: ModelConfig) -> dict[str, Any]:
    """Return a GPT-2 under Hugging Face's names, with the prefix."""
    found = {}
    for name, values in some_tensors(config).items():
        theirs, conv1d = NAMES[name], name in CONV1D
        if "{}" not in theirs:
            found[f"transformer.{theirs}"] = (
                values[: config.vocab_size] if name == "wte" else values
            )
            continue
        for layer, one in enumerate(values):
            kept = np.ascontiguousarray(one.T if conv1d else one)
            found[f"transformer.{theirs.format(layer)}"] = kept
    return found


def write_huggingface_config(folder: Path, config: ModelConfig) -> None:
    """Write the ``config.json`` of a GPT-2."""
    settings = {
        "model_type": "gpt2",
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.channels,
        "n_positions": config.context,
        "vocab_size": config.vocab_size,
    }
    (folder / "config.json").write_text(json.dumps(settings))


def write_huggingface(folder: Path, config: ModelConfig, *, shards: int = 1) -> Path:
    """Write a Hugging Face model's folder, its tensors in one file or several."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = huggingface_tensors(config)
    write_huggingface_config(folder, config)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    index: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder
