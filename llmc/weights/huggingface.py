"""Read GPT-2 as Hugging Face stores it: ``config.json`` and named tensors.

Names come with or without the prefix ``transformer.``. Conv1D keeps its weights as (in, out), so
four kinds of them are transposed. ``attn.bias`` and ``attn.masked_bias`` are masks, not weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from llmc.errors import BadData, MissingOutput, Usage
from llmc.kinds import HEAD_BYTES, not_data
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.base import (
    STEP,
    TOKENIZER,
    UNSTACKED,
    VAL_LOSS,
    Origin,
    Stored,
    TensorEntry,
    Weights,
    check_tensors,
    same,
)
from llmc.weights.safetensors import INDEX_SUFFIX, READABLE, SafetensorsFile

HEAD_SIZE = 64  # in every GPT-2 that OpenAI published
PREFIX = "transformer."
HEAD = "lm_head.weight"
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
CONFIG_FILE = "config.json"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
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


class NamedTensors(Protocol):
    """Tensors by name: a safetensors file, several, or what torch has loaded."""

    path: Path
    metadata: dict[str, str]

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """What there is, by name."""

    def stored(self, name: str) -> Stored:
        """Return a tensor."""


class NamedModel(Weights):
    """A GPT-2 with the tensor names of Hugging Face and nanoGPT.

    Attributes:
        entries: the tensors of the file under the names of ``NAMES``, without masks.
    """

    conv1d = True  # four matrices are stored as (in, out)
    biases = True  # all biases must be there; if False, a missing one is zero

    def __init__(self, tensors: NamedTensors, names: Mapping[str, str], config: ModelConfig):
        """Check the tensors by name, shape and type.

        Args:
            tensors: the file's.
            names: the file's name of a tensor, by the name it has here.
            config: the model's shape.

        Raises:
            BadData: they do not have this shape.
        """
        self.path = tensors.path
        self.config = config
        self._tensors = tensors
        self._names = names
        self.entries = {short: tensors.entries[name] for short, name in names.items()}
        self._check()

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer, memory-mapped if the file allows."""
        import numpy as np

        theirs, conv1d = NAMES[name]
        short = theirs.format(layer)
        if short not in self.entries:
            shape = tensor_shapes(self.config)[name]
            return Stored("F32", np.zeros(shape[name not in UNSTACKED :], np.float32))
        found = self._tensors.stored(self._names[short])
        if name == "wte":
            return Stored(found.kind, found.values[: self.config.vocab_size])
        return Stored(found.kind, found.values.T) if conv1d and self.conv1d else found

    def verify(self) -> None:
        """Compare the head with the token embedding, if the file has both.

        Raises:
            BadData: they differ.
        """
        if HEAD in self.entries and not same(
            self._tensors.stored(self._names[HEAD]),
            self._tensors.stored(self._names["wte.weight"]),
        ):
            raise BadData(
                f"{self.path}: lm_head.weight differs from wte.weight, but GPT-2 ties them: "
                "this is another model"
            )

    def rows(self) -> int:
        """Return how many rows the file's token embedding has; nanoGPT pads it."""
        return self.config.vocab_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the required shapes of all tensors, by the names of ``NAMES``."""
        shapes = {}
        for name, shape in tensor_shapes(self.config).items():
            theirs, conv1d = NAMES[name]
            if name in UNSTACKED:
                shapes[theirs] = shape
                continue
            one = shape[:0:-1] if conv1d and self.conv1d else shape[1:]
            shapes |= {theirs.format(layer): one for layer in range(self.config.layers)}
        shapes["wte.weight"] = (self.rows(), self.config.channels)
        return shapes

    def _check(self) -> None:
        if self.config.layers > len(self.entries):  # before a list of all their names is made
            raise BadData(f"{self.path} lacks layers: its configuration has {self.config.layers:,}")
        shapes = self.shapes()
        shapes[HEAD] = shapes["wte.weight"]
        optional = {name for name in shapes if name.endswith(".bias") and not self.biases}
        check_tensors(
            self.path, self.entries, shapes, optional={HEAD, *optional}, readable=READABLE
        )


class HuggingFaceModel(NamedModel):
    """A folder with ``config.json`` and weights, or a file of weights."""

    def __init__(self, path: Path) -> None:
        """Open a folder, a ``.safetensors`` file, a state dict of torch's, or an index of several.

        The shape comes from the ``config.json`` in the folder or beside the file. Without one it
        is derived from the tensors, with heads of 64 channels as in OpenAI's GPT-2.

        Raises:
            MissingOutput: there is no such file.
            BadData: it is damaged, or another architecture than GPT-2.
        """
        file = path
        if path.is_dir():
            found = [path / name for name in FILES if (path / name).is_file()]
            file = found[0] if found else path / SAFETENSORS
        if not file.is_file():
            raise MissingOutput(
                f"no {file}: 'llmc fetch gpt2' gets GPT-2's weights; weights of your own are "
                "a folder with config.json and model.safetensors, or one .safetensors file"
            )
        self.open(_named_tensors(file))

    def open(self, tensors: NamedTensors) -> None:
        """Open the model of these tensors; see :meth:`__init__`."""
        names = short_names(tensors.entries)
        settings = tensors.path.with_name(CONFIG_FILE)
        entries = {short: tensors.entries[name] for short, name in names.items()}
        config = (
            read_config(settings) if settings.is_file() else _derived_config(tensors.path, entries)
        )
        super().__init__(tensors, names, config)
        self.origin = Origin.of(tensors.metadata)

    @classmethod
    def of(cls, tensors: NamedTensors) -> HuggingFaceModel:
        """Return the model of tensors that are already loaded."""
        made = cls.__new__(cls)
        made.open(tensors)
        return made


def short_names(entries: Mapping[str, TensorEntry]) -> dict[str, str]:
    """Return a map from names without prefix to the file's names; masks are left out."""
    names = {name.removeprefix(PREFIX): name for name in entries}
    return {short: name for short, name in names.items() if not MASK.fullmatch(short)}


def _named_tensors(file: Path) -> NamedTensors:
    if file.name.endswith((".safetensors", ".safetensors" + INDEX_SUFFIX)):
        return SafetensorsFile(file)
    from llmc.weights.torch import load_tensors

    return load_tensors(file)


def metadata_of(origin: Origin) -> dict[str, str]:
    """Return the metadata of a safetensors file; transformers requires ``format``."""
    found = {"format": "pt"}
    if origin.step:
        found[STEP] = str(origin.step)
    if origin.val_loss is not None:
        found[VAL_LOSS] = repr(origin.val_loss)
    if origin.tokenizer is not None:
        found[TOKENIZER] = origin.tokenizer.hex()
    return found


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


def _derived_config(path: Path, entries: Mapping[str, Any]) -> ModelConfig:
    """Return the shape derived from the tensors, with heads of 64 channels.

    Raises:
        BadData: they are not a GPT-2's, or 64 does not divide the channels.
    """
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
