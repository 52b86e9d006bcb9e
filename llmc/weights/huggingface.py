"""GPT-2 as Hugging Face stores it: ``config.json`` and named tensors.

Names come with or without the prefix ``transformer.``. Conv1D keeps its weights as (in, out), so
four kinds of them are transposed. ``attn.bias`` and ``attn.masked_bias`` are masks, not weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from llmc.errors import BadData, MissingOutput, Usage
from llmc.kinds import HEAD_BYTES, not_data
from llmc.model import ModelConfig
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.tokenizer_json import Unheld, read_folder
from llmc.weights.base import NamedWeights, Origin, Tensor, Weights, layer_shapes
from llmc.weights.number_types import Stored
from llmc.weights.safetensors import (
    INDEX_SUFFIX,
    READABLE,
    Planned,
    read_safetensors,
    write_safetensors,
)

if TYPE_CHECKING:
    from llmc.weights.number_types import Floats

HEAD_SIZE = 64  # in every GPT-2 that OpenAI published
PREFIX = "transformer."
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
SUFFIX = ".safetensors"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# In a folder, the first of these is the model.
FILES = (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, PICKLE, PICKLE + INDEX_SUFFIX)

# Ours -> theirs, and whether theirs is a Conv1D. A "{}" takes the layer.
NAMES = {
    "wte": ("wte.weight", False),
    "wpe": ("wpe.weight", False),
    "ln1w": ("h.{}.ln_1.weight", False),
    "ln1b": ("h.{}.ln_1.bias", False),
    "qkvw": ("h.{}.attn.c_attn.weight", True),
    "qkvb": ("h.{}.attn.c_attn.bias", False),
    "attprojw": ("h.{}.attn.c_proj.weight", True),
    "attprojb": ("h.{}.attn.c_proj.bias", False),
    "ln2w": ("h.{}.ln_2.weight", False),
    "ln2b": ("h.{}.ln_2.bias", False),
    "fcw": ("h.{}.mlp.c_fc.weight", True),
    "fcb": ("h.{}.mlp.c_fc.bias", False),
    "fcprojw": ("h.{}.mlp.c_proj.weight", True),
    "fcprojb": ("h.{}.mlp.c_proj.bias", False),
    "lnfw": ("ln_f.weight", False),
    "lnfb": ("ln_f.bias", False),
}

# The values in config.json that llmc supports.
REQUIRED: dict[str, tuple[object, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


class HuggingFaceNames(NamedWeights):
    """A GPT-2 with the tensor names of Hugging Face, which nanoGPT uses too.

    Attributes:
        entries: the tensors of the file under the names of ``NAMES``, without masks.
    """

    names: ClassVar = {ours: theirs for ours, (theirs, _) in NAMES.items()}
    head = "lm_head.weight"
    readable = READABLE
    layers_in = "its configuration has"


class HuggingFaceModel(HuggingFaceNames):
    """A folder with ``config.json`` and weights, or a file of weights."""

    def __init__(self, path: Path, loaded: Mapping[str, Tensor] | None = None) -> None:
        """Open a folder, a ``.safetensors`` file, a state dict of torch's, or an index of several.

        The shape comes from the ``config.json`` in the folder or beside the file. Without one it
        is derived from the tensors, with heads of 64 channels as in OpenAI's GPT-2.

        Args:
            path: the folder or file.
            loaded: the tensors of the file, if it has been read.

        Raises:
            MissingOutput: there is no such file.
            BadData: it is damaged, or another architecture than GPT-2.
        """
        self.path = path
        if path.is_dir():
            found = [path / name for name in FILES if (path / name).is_file()]
            self.path = found[0] if found else path / SAFETENSORS
        if not self.path.is_file():
            raise MissingOutput(
                f"no {self.path}: 'llmc fetch gpt2' gets GPT-2's weights; weights of your own are "
                "a folder with config.json and model.safetensors, or one .safetensors file"
            )
        if loaded is None and self.path.name.endswith((SUFFIX, SUFFIX + INDEX_SUFFIX)):
            header = read_safetensors(self.path)
            loaded, self.origin = header.entries, Origin.of(header.metadata)
        elif loaded is None:
            from llmc.weights.torch import load_tensors

            loaded = load_tensors(self.path)
        self.entries = short_names(loaded)
        settings = self.path.with_name(CONFIG_FILE)
        self.config = (
            read_config(settings)
            if settings.is_file()
            else _derived_config(self.path, self.entries)
        )
        self.check()

    def tokenizer(self) -> Tokenizer | Unheld | None:
        """Return the tokenizer in the folder; errors as in the base class."""
        return read_folder(self.path.parent)

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer, memory-mapped if the file allows."""
        found = super().stored(name, layer)
        return Stored(found.kind, found.values.T) if NAMES[name][1] else found

    def stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in the file: Conv1D's is (in, out)."""
        return shape[::-1] if NAMES[name][1] else shape


def short_names(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their names without prefix; masks are left out."""
    short = {name.removeprefix(PREFIX): entry for name, entry in entries.items()}
    return {name: entry for name, entry in short.items() if not MASK.fullmatch(name)}


def read_config(path: Path) -> ModelConfig:
    """Return the shape in a ``config.json``.

    Raises:
        BadData: it is damaged, or of another architecture.
    """
    raw = b""
    try:
        raw = path.read_bytes()
        table = json.loads(raw)
        for key, allowed in REQUIRED.items():
            if table.get(key, allowed[0]) not in allowed:
                raise BadData(f"{path}: {key} is {table[key]!r}; llmc needs {allowed[0]!r}")
        channels = table["n_embd"]
        if table.get("n_inner") not in (None, 4 * channels):
            raise BadData(f"{path}: n_inner is {table['n_inner']}; llmc needs {4 * channels}")
        context = table.get("n_positions", table.get("n_ctx"))
        shape = (table["n_layer"], table["n_head"], channels, context, table["vocab_size"])
        if not all(type(value) is int for value in shape):
            raise BadData(f"{path} is not GPT-2's: its dimensions are {shape}, not whole numbers")
        return ModelConfig(*shape)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error
    except KeyError as error:
        raise BadData(f"{path} has no {error}: it is not GPT-2's") from error
    except (ValueError, TypeError, AttributeError, Usage) as error:
        raise BadData(
            not_data(raw[:HEAD_BYTES], str(path)) or f"{path} is not GPT-2's config.json: {error}"
        ) from error


def _derived_config(path: Path, entries: Mapping[str, Tensor]) -> ModelConfig:
    """Return the shape derived from the tensors, with heads of 64 channels."""
    matrices = [entries.get(name) for name in ("wte.weight", "wpe.weight")]
    layers = len({name.split(".")[1] for name in entries if name.startswith("h.")})
    if layers == 0 or any(entry is None or len(entry.shape) != 2 for entry in matrices):
        raise BadData(f"{path} has no wte.weight, wpe.weight and h.0…: it is not a GPT-2")
    (vocab_size, channels), (context, _) = (entry.shape for entry in matrices if entry)
    if channels % HEAD_SIZE or not channels:
        raise BadData(
            f"{path} does not record its heads, and its {channels} channels are no multiple of "
            f"{HEAD_SIZE}: put the model's config.json beside it"
        )
    try:
        return ModelConfig(layers, channels // HEAD_SIZE, channels, context, vocab_size)
    except Usage as error:
        raise BadData(f"{path} is not a GPT-2: {error}") from error


def write_hf_folder(
    folder: Path, weights: Weights, kind: str, *, eot: int | None, origin: Origin
) -> None:
    """Write config.json, generation_config.json and model.safetensors into a folder.

    The weights are one file, as in every GPT-2 that OpenAI published, the largest included. They
    are stored as ``kind``: ``F32``, ``F16`` or ``BF16``. ``eot`` is the id that begins and ends a
    text; None if the tokenizer is not known.

    Raises:
        BadData: a number is too large for F16.
        OSError: the disk is full.
    """
    settings: dict[str, object] = {"bos_token_id": eot, "eos_token_id": eot}
    _write_json(folder / CONFIG_FILE, _config(weights.config, kind) | settings)
    _write_json(folder / GENERATION_FILE, settings | {"_from_model_config": True})
    metadata = {"format": "pt", **origin.metadata()}  # transformers requires the format
    write_safetensors(folder / SAFETENSORS, _plan(weights, kind), metadata)


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
    for name, layer, shape in layer_shapes(weights.config):
        theirs, conv1d = NAMES[name]
        yield Planned(
            PREFIX + theirs.format(layer),
            kind,
            shape[::-1] if conv1d else shape,
            _blocks(weights, name, layer, transposed=conv1d),
        )


def _blocks(weights: Weights, name: str, layer: int, *, transposed: bool) -> Iterator[Floats]:
    """Yield a tensor's blocks; the tensor is opened when the first is needed."""
    import numpy as np

    blocks = weights.stored(name, layer).blocks()
    if transposed:
        yield np.concatenate(list(blocks)).T
    else:
        yield from blocks


def _write_json(path: Path, table: dict[str, object]) -> None:
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
