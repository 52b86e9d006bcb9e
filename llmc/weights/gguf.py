"""GGUF, the format of llama.cpp, for its architecture ``gpt2``.

Layout: key-values, the list of tensors, then the data, aligned to 32 bytes. Matrices are (out, in)
as in llmc; llama.cpp requires one-dimensional tensors and the positions in F32. The file has its
tokenizer: tokens spelled as in GPT-2's files, and merges.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from llmc.errors import BadData, MissingOutput, Usage
from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens.byte_level import Vocabulary, spelled, unspelled
from llmc.weights.base import (
    Q8_BLOCK,
    STEP,
    TOKENIZER,
    UNSTACKED,
    VAL_LOSS,
    Origin,
    Stored,
    TensorPlace,
    Weights,
    check_tensors,
    same,
    stored_bytes,
    write_blocks,
)
from llmc.weights.gguf_header import GgufArray, GgufHeader, scan_gguf

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "gpt2"
EPSILON = 1e-5
READABLE = ("F32", "F16", "BF16", "Q8_0")
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
NORMAL, CONTROL, UNUSED = 1, 3, 5  # of tokenizer.ggml.token_type
HEAD = "output.weight"
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


class GgufModel(Weights):
    """A GPT-2 in a GGUF file, checked by key, name, shape and type.

    Attributes:
        metadata: every key-value of the file.
        entries: every tensor, by GGUF's name.
    """

    def __init__(self, path: Path, header: GgufHeader | None = None) -> None:
        """Check the header: the one given, or that of the file.

        Raises:
            MissingOutput: there is no such file.
            BadData: it is damaged, or another architecture than GPT-2.
        """
        self.path = path
        self.metadata, self.entries = contents(header) if header else read_gguf(path)
        architecture = self.metadata.get("general.architecture")
        if architecture != ARCHITECTURE:
            raise BadData(f"{path} is a model of the architecture {architecture!r}, not 'gpt2'")
        self.config = self._config()
        self._check()
        self.origin = Origin.of(self.metadata)

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer, memory-mapped."""
        return self.entries[NAMES[name].format(layer)].stored()

    def verify(self) -> None:
        """Compare the head with the token embedding, if the file has both.

        Raises:
            BadData: they differ.
        """
        if HEAD in self.entries and not same(self.entries[HEAD].stored(), self.stored("wte")):
            raise BadData(
                f"{self.path}: output.weight differs from token_embd.weight, but GPT-2 ties them: "
                "this is another model"
            )

    def vocabulary(self) -> Vocabulary | None:
        """Return the file's tokenizer; None if it has none like GPT-2's.

        Raises:
            BadData: it is damaged.
        """
        model = self.metadata.get("tokenizer.ggml.model")
        if model != "gpt2" or self.metadata.get("tokenizer.ggml.pre", "gpt-2") != "gpt-2":
            return None
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        kinds = self.metadata.get("tokenizer.ggml.token_type")
        merges = self.metadata.get("tokenizer.ggml.merges")
        if not (_texts(tokens) and _texts(merges) and isinstance(kinds, list)):
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
        embedding = self.entries.get(NAMES["wte"])
        found = {name: self.metadata.get(key) for name, key in DIMENSIONS.items()}
        for name, value in found.items():
            if type(value) is not int:
                raise BadData(f"{self.path} has no {DIMENSIONS[name]}: it is not a whole GPT-2")
        if embedding is None or len(embedding.shape) != 2:
            raise BadData(f"{self.path} has no tensor {NAMES['wte']}: it is not a whole GPT-2")
        epsilon = self.metadata.get("gpt2.attention.layer_norm_epsilon", EPSILON)
        if not isinstance(epsilon, float) or not math.isclose(epsilon, EPSILON, rel_tol=1e-6):
            raise BadData(f"{self.path}: layer_norm_epsilon is {epsilon}; llmc needs {EPSILON}")
        channels = found["channels"] or 0
        width = self.metadata.get("gpt2.feed_forward_length", 4 * channels)
        if width != 4 * channels:
            raise BadData(f"{self.path}: feed_forward_length is {width}; llmc needs {4 * channels}")
        try:
            return ModelConfig(vocab_size=embedding.shape[0], **found)  # type: ignore[arg-type]
        except Usage as error:
            raise BadData(f"{self.path} is not a GPT-2: {error}") from error

    def _check(self) -> None:
        if self.config.layers > len(self.entries):  # before a list of all their names is made
            raise BadData(
                f"{self.path} lacks layers: its key-values promise {self.config.layers:,}"
            )
        shapes = gguf_shapes(self.config)
        shapes[HEAD] = shapes[NAMES["wte"]]
        check_tensors(self.path, self.entries, shapes, optional={HEAD}, readable=READABLE)


def _texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def gguf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors, outputs first, by GGUF's names, layer after layer."""
    shapes = tensor_shapes(config) | {"wte": (config.vocab_size, config.channels)}
    layered = [name for name in NAMES if name not in UNSTACKED]
    return (
        {NAMES[name]: shapes[name] for name in ("wte", "wpe")}
        | {
            NAMES[name].format(layer): shapes[name][1:]
            for layer in range(config.layers)
            for name in layered
        }
        | {NAMES[name]: shapes[name] for name in ("lnfw", "lnfb")}
    )


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
    """Return the key-values of a GGUF file and the places of its tensors.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is damaged, cut short, or big-endian.
    """
    try:
        header, problems = scan_gguf(path, str(path))
    except FileNotFoundError as error:
        raise MissingOutput(f"there is no file {path}") from error
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error
    if problems:
        raise BadData(problems[0])
    return contents(header)


def contents(header: GgufHeader) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
    """Return the key-values of a header, arrays as lists, and the places of the tensors."""
    metadata = {
        key: list(value.items) if isinstance(value, GgufArray) else value
        for key, value in header.metadata.items()
    }
    return metadata, header.entries


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
    """Write a GGUF file with its tokenizer, for llama.cpp.

    Args:
        path: the file; an existing one is overwritten.
        weights: the model.
        kind: how matrices are stored: ``F32``, ``F16``, ``BF16`` or ``Q8_0``.
        vocabulary: the tokenizer's; further tokens of the model are marked unused.
        name: the model's name in the file.
        origin: kept under llmc's own keys.

    Raises:
        BadData: a number is too large for F16.
        OSError: the disk is full.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    logging.getLogger("gguf").setLevel(logging.ERROR)
    config = weights.config
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_name(name)
    _add_model(writer, config, kind)
    _add_tokenizer(writer, config, vocabulary)
    _add_origin(writer, origin)
    plan = [("wte", 0), ("wpe", 0)]
    layered = [ours for ours in NAMES if ours not in UNSTACKED]
    plan += [(ours, layer) for layer in range(config.layers) for ours in layered]
    plan += [("lnfw", 0), ("lnfb", 0)]
    shapes = gguf_shapes(config)
    for ours, layer in plan:
        theirs, stored_as = NAMES[ours].format(layer), tensor_kind(ours, kind)
        shape = shapes[theirs]
        size = stored_bytes(math.prod(shape), stored_as)
        # Any type but float32 keeps the package from guessing the shape.
        writer.add_tensor_info(
            theirs, shape, np.dtype(np.float32), size, GGMLQuantizationType[stored_as]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    alignment = writer.data_alignment
    with path.open("ab") as file:
        for ours, layer in plan:
            file.write(bytes(-file.tell() % alignment))
            write_blocks(file, weights.stored(ours, layer).blocks(), tensor_kind(ours, kind))
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


def _add_origin(writer: GGUFWriter, origin: Origin) -> None:
    if origin.step:
        writer.add_uint32(STEP, origin.step)
    if origin.val_loss is not None:
        writer.add_float32(VAL_LOSS, origin.val_loss)
    if origin.tokenizer is not None:
        writer.add_string(TOKENIZER, origin.tokenizer.hex())
