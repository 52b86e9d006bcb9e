"""GGUF, the format of llama.cpp, for its architecture ``gpt2``.

Layout: key-values, the list of tensors, then the data, aligned to 32 bytes. Matrices are (out, in)
as in llmc; llama.cpp requires one-dimensional tensors and the positions in F32. The file has its
tokenizer: tokens spelled as in GPT-2's files, and merges.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData, Usage
from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens.byte_level import Vocabulary, spelled, unspelled
from llmc.weights.base import NamedWeights, Origin, Weights, layer_shapes
from llmc.weights.gguf_header import GgufArray, GgufHeader, read_gguf
from llmc.weights.number_types import Q8_BLOCK, stored_bytes, write_blocks

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "gpt2"
EPSILON = 1e-5
READABLE = ("F32", "F16", "BF16", "Q8_0")
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
NORMAL, CONTROL, UNUSED = 1, 3, 5  # of tokenizer.ggml.token_type
VOCABULARY = ("tokens", "token_type", "merges")
MATRICES = ("wte", "qkvw", "attprojw", "fcw", "fcprojw")
# llama.cpp requires a list of merges, and the gguf package writes no empty list. This merge never
# happens, because no text begins with the token's spelling as a single symbol.
NO_MERGE = "<|endoftext|> <|endoftext|>"

# Ours -> GGUF's; a "{}" takes the layer.
NAMES = {
    "wte": "token_embd.weight",
    "wpe": "position_embd.weight",
    "ln1w": "blk.{}.attn_norm.weight",
    "ln1b": "blk.{}.attn_norm.bias",
    "qkvw": "blk.{}.attn_qkv.weight",
    "qkvb": "blk.{}.attn_qkv.bias",
    "attprojw": "blk.{}.attn_output.weight",
    "attprojb": "blk.{}.attn_output.bias",
    "ln2w": "blk.{}.ffn_norm.weight",
    "ln2b": "blk.{}.ffn_norm.bias",
    "fcw": "blk.{}.ffn_up.weight",
    "fcb": "blk.{}.ffn_up.bias",
    "fcprojw": "blk.{}.ffn_down.weight",
    "fcprojb": "blk.{}.ffn_down.bias",
    "lnfw": "output_norm.weight",
    "lnfb": "output_norm.bias",
}
DIMENSIONS = {
    "context": "gpt2.context_length",
    "channels": "gpt2.embedding_length",
    "layers": "gpt2.block_count",
    "heads": "gpt2.attention.head_count",
}


class GgufModel(NamedWeights):
    """A GPT-2 in a GGUF file, checked by key, name, shape and type."""

    names = NAMES
    head = "output.weight"
    readable = READABLE
    layers_in = "its key-values promise"

    def __init__(self, path: Path, header: GgufHeader | None = None) -> None:
        """Check the header: the one given, or that of the file.

        Raises:
            MissingOutput: there is no such file.
            BadData: it is damaged, or another architecture than GPT-2.
        """
        self.path = path
        header = header or read_gguf(path)
        self.metadata, self.entries = header.metadata, header.entries
        architecture = self.metadata.get("general.architecture")
        if architecture != ARCHITECTURE:
            raise BadData(f"{path} is a model of the architecture {architecture!r}, not 'gpt2'")
        self.config = self._config()
        self.check()
        self.origin = Origin.of(self.metadata)
        self.has_tokenizer = "tokenizer.ggml.tokens" in self.metadata

    def vocabulary(self) -> Vocabulary | None:
        """Return the file's tokenizer; None if it has none like GPT-2's.

        Raises:
            BadData: it is damaged.
        """
        model = self.metadata.get("tokenizer.ggml.model")
        if model != "gpt2" or self.metadata.get("tokenizer.ggml.pre", "gpt-2") != "gpt-2":
            return None
        found = [self.metadata.get(f"tokenizer.ggml.{name}") for name in VOCABULARY]
        arrays = [array.items for array in found if isinstance(array, GgufArray)]
        if len(arrays) < len(found):
            return None
        tokens, kinds, merges = arrays
        if not all(isinstance(text, str) for text in (*tokens, *merges)):
            return None
        if len(kinds) != len(tokens):
            raise BadData(f"{self.path}: {len(tokens)} tokens, {len(kinds)} types of tokens")
        known = [pair for pair in zip(tokens, kinds, strict=True) if pair[1] != UNUSED]
        specials = {index: token for index, (token, kind) in enumerate(known) if kind == CONTROL}
        return Vocabulary(
            tuple(
                token.encode() if index in specials else unspelled(token)
                for index, (token, _) in enumerate(known)
            ),
            tuple(specials),
            tuple(merge for merge in merges if merge != NO_MERGE),
        )

    def _config(self) -> ModelConfig:
        path, wte = self.path, NAMES["wte"]
        found: dict[str, int] = {}
        for name, key in DIMENSIONS.items():
            if type(value := self.metadata.get(key)) is not int:
                raise BadData(f"{path} has no {key}: it is not a whole GPT-2")
            found[name] = value
        embedding = self.entries.get(wte)
        if embedding is None or len(embedding.shape) != 2:
            raise BadData(f"{path} has no tensor {wte}: it is not a whole GPT-2")
        epsilon = self.metadata.get("gpt2.attention.layer_norm_epsilon", EPSILON)
        if not isinstance(epsilon, float) or not math.isclose(epsilon, EPSILON, rel_tol=1e-6):
            raise BadData(f"{path}: layer_norm_epsilon is {epsilon}; llmc needs {EPSILON}")
        wanted = 4 * found["channels"]
        width = self.metadata.get("gpt2.feed_forward_length", wanted)
        if width != wanted:
            raise BadData(f"{path}: feed_forward_length is {width}; llmc needs {wanted}")
        try:
            return ModelConfig(vocab_size=embedding.shape[0], **found)
        except Usage as error:
            raise BadData(f"{path} is not a GPT-2: {error}") from error


def tensor_kind(name: str, kind: str) -> str:
    """Return a tensor's type in a file of ``kind``: vectors and positions are F32."""
    return kind if name in MATRICES else "F32"


def gguf_bytes(config: ModelConfig, kind: str) -> int:
    """Return the size of all tensors in bytes."""
    total = 0
    for name, shape in tensor_shapes(config).items():
        rows = (config.vocab_size, *shape[1:]) if name == "wte" else shape
        total += stored_bytes(math.prod(rows), tensor_kind(name, kind))
    return total


def check_kind(config: ModelConfig, kind: str) -> None:
    """Check that the model's rows fill whole blocks.

    Raises:
        Usage: Q8_0, and the channels are no multiple of 32.
    """
    if kind == "Q8_0" and config.channels % Q8_BLOCK:
        raise Usage(
            f"q8_0 stores blocks of {Q8_BLOCK} weights, which do not fill rows of "
            f"{config.channels}: choose --dtype f16, bf16 or fp32"
        )


def write_gguf(
    path: Path, weights: Weights, kind: str, vocabulary: Vocabulary, *, name: str, origin: Origin
) -> None:
    """Write a GGUF file with its tokenizer, for llama.cpp; an existing file is overwritten.

    Matrices are stored as ``kind``: ``F32``, ``F16``, ``BF16`` or ``Q8_0``. ``name`` is the model's
    name in the file. Tokens of the model beyond the vocabulary are marked unused.

    Raises:
        BadData: a number is too large for F16.
        OSError: the disk is full.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    logging.getLogger("gguf").setLevel(logging.ERROR)
    config = weights.config
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_name(name)
    _add_model(writer, config, kind)
    _add_tokenizer(writer, config, vocabulary)
    for key, value in origin.metadata().items():
        kinds = {int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}
        writer.add_key_value(key, value, kinds[type(value)])
    for ours, layer, shape in layer_shapes(config):
        stored_as = tensor_kind(ours, kind)
        # Any type but float32 keeps the package from guessing the shape.
        writer.add_tensor_info(
            NAMES[ours].format(layer),
            shape,
            np.dtype(np.float32),
            stored_bytes(math.prod(shape), stored_as),
            GGMLQuantizationType[stored_as],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    alignment = writer.data_alignment
    with path.open("ab") as file:
        for ours, layer, _ in layer_shapes(config):
            file.write(bytes(-file.tell() % alignment))
            write_blocks(file.write, weights.stored(ours, layer).blocks(), tensor_kind(ours, kind))
        file.write(bytes(-file.tell() % alignment))


def _add_model(writer: GGUFWriter, config: ModelConfig, kind: str) -> None:
    writer.add_file_type(FILE_TYPES[kind])
    if kind == "Q8_0":
        writer.add_quantization_version(2)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.channels)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(4 * config.channels)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(EPSILON)


def _add_tokenizer(writer: GGUFWriter, config: ModelConfig, vocabulary: Vocabulary) -> None:
    size = len(vocabulary.tokens)
    unused = range(size, config.vocab_size)
    tokens = [
        token.decode() if index in vocabulary.specials else spelled(token)
        for index, token in enumerate(vocabulary.tokens)
    ]
    kinds = [CONTROL if index in vocabulary.specials else NORMAL for index in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + [f"[PAD{index}]" for index in unused])
    writer.add_token_types(kinds + [UNUSED for _ in unused])
    writer.add_token_merges(list(vocabulary.merges) or [NO_MERGE])
    eot = vocabulary.specials[-1]
    writer.add_bos_token_id(eot)
    writer.add_eos_token_id(eot)
    writer.add_add_bos_token(False)
