"""GGUF, the format of llama.cpp, for its architecture ``gpt2``.

Layout: key-values, the list of tensors, then the data, aligned to 32 bytes. Matrices are (out, in)
as in llmc; llama.cpp requires one-dimensional tensors and the positions in F32. The file has its
tokenizer: tokens spelled as in GPT-2's files, and merges.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData, Usage
from llmc.kinds import broken_explained
from llmc.model import HIDDEN_MATRICES, ModelConfig
from llmc.tokens.byte_level import Vocabulary, unspelled
from llmc.tokens.template_files import with_chat_template
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.tokenizer_json import Unheld, tokenizer_of_vocabulary
from llmc.weights.base import NamedWeights, Origin, Weights, layer_shapes
from llmc.weights.gguf_header import GgufArray, GgufHeader, read_gguf
from llmc.weights.number_types import Q8_BLOCK, stored_bytes, write_blocks

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "gpt2"
EPSILON = 1e-5
READABLE = ("F32", "F16", "BF16", "Q8_0")
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # of tokenizer.ggml.token_type
TOKENIZER = "tokenizer.ggml."  # begins the keys of its tokenizer
CHAT_TEMPLATE = "tokenizer.chat_template"
VOCABULARY = ("tokens", "token_type", "merges")
MATRICES = ("wte", *HIDDEN_MATRICES)
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

    def tokenizer(self) -> Tokenizer | Unheld | None:
        """Return the file's tokenizer; None if it has none.

        Raises:
            BadData: it is damaged.
        """
        kept = {key: value for key, value in self.metadata.items() if key.startswith(TOKENIZER)}
        if f"{TOKENIZER}tokens" not in kept:
            return None
        reason = self._unlike_gpt2(kept)
        if reason is None:
            found, known = self._vocabulary(), self.origin.tokenizer or b""
            with broken_explained(f"the tokenizer in {self.path}", "get the file again"):
                eot = kept.get(f"{TOKENIZER}eos_token_id")
                made = tokenizer_of_vocabulary(found, eot, known.hex() or None)
            if isinstance(made, Unheld):
                return made
            return with_chat_template(made, self.chat_template())
        facts = {
            key: list(value.items) if isinstance(value, GgufArray) else value
            for key, value in sorted(kept.items())
        }
        return Unheld(reason, hashlib.sha256(repr(facts).encode()).hexdigest())

    def chat_template(self) -> str | None:
        """Return the text of the file's chat template; None if it has none."""
        found = self.metadata.get(CHAT_TEMPLATE)
        return found if isinstance(found, str) else None

    def _unlike_gpt2(self, kept: Mapping[str, object]) -> str | None:
        """Return why llmc cannot hold the file's tokenizer; None if it can."""
        model, pattern = kept.get(f"{TOKENIZER}model"), kept.get(f"{TOKENIZER}pre", "gpt-2")
        if model != "gpt2":
            return f"it is of the type {model!r}, not a byte-level BPE"
        if pattern != "gpt-2":
            return f"its split pattern {pattern!r} is not GPT-2's"
        found = [kept.get(f"{TOKENIZER}{name}") for name in VOCABULARY]
        arrays = [array.items for array in found if isinstance(array, GgufArray)]
        if len(arrays) < len(found):
            return "its tokens, their types or its merges are missing"
        if not all(isinstance(text, str) for text in (*arrays[0], *arrays[2])):
            return "its tokens are not texts"
        return None

    def _vocabulary(self) -> Vocabulary:
        """Return the file's tokens and merges."""
        found = [self.metadata[f"{TOKENIZER}{name}"] for name in VOCABULARY]
        tokens, kinds, merges = (array.items for array in found)
        if len(kinds) != len(tokens):
            raise BadData(f"{self.path}: {len(tokens)} tokens, {len(kinds)} types of tokens")
        by_kind = {
            kind: tuple(index for index, each in enumerate(kinds) if each == kind)
            for kind in (CONTROL, USER_DEFINED, UNUSED)
        }
        named, unused = {*by_kind[CONTROL], *by_kind[USER_DEFINED]}, {*by_kind[UNUSED]}
        return Vocabulary(
            tuple(
                b"" if index in unused else token.encode() if index in named else unspelled(token)
                for index, token in enumerate(tokens)
            ),
            by_kind[CONTROL],
            tuple(merge for merge in merges if merge != NO_MERGE),
            None,
            by_kind[USER_DEFINED],
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
    shapes = layer_shapes(config)
    return sum(stored_bytes(math.prod(shape), tensor_kind(name, kind)) for name, _, shape in shapes)


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
    path: Path,
    weights: Weights,
    kind: str,
    vocabulary: Vocabulary,
    *,
    name: str,
    origin: Origin,
    chat_template: str | None = None,
    end_of_turn: int | None = None,
) -> None:
    """Write a GGUF file with its tokenizer, for llama.cpp; an existing file is overwritten.

    Matrices are stored as ``kind``: ``F32``, ``F16``, ``BF16`` or ``Q8_0``. ``name`` is the model's
    name in the file. Tokens of the model beyond the vocabulary are marked unused. The chat template
    is Jinja's; ``end_of_turn`` is the id that ends an answer in it.

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
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    if end_of_turn is not None:
        writer.add_eot_token_id(end_of_turn)
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
    names = vocabulary.names()
    names += [""] * (config.vocab_size - len(names))
    kinds = [UNUSED if not name else NORMAL for name in names]
    for index in vocabulary.specials:
        kinds[index] = CONTROL
    for index in vocabulary.whole:
        kinds[index] = USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([name or f"[PAD{index}]" for index, name in enumerate(names)])
    writer.add_token_types(kinds)
    writer.add_token_merges(list(vocabulary.merges) or [NO_MERGE])
    if (eot := vocabulary.eot) is not None:
        writer.add_bos_token_id(eot)
        writer.add_eos_token_id(eot)
    writer.add_add_bos_token(False)
