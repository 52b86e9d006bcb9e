"""GPT-2 as Hugging Face stores it: ``config.json`` and named tensors.

Names come with or without the prefix ``transformer.``. Conv1D keeps its weights as (in, out), so
four kinds of them are transposed. ``attn.bias`` and ``attn.masked_bias`` are masks, not weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import BadData, MissingOutput, Usage
from llmc.kinds import HEAD_BYTES, not_data
from llmc.model import HIDDEN_MATRICES, ModelConfig, tensor_shapes
from llmc.parsing import from_json_file, read_limited
from llmc.tokens.template_files import chat_template_of
from llmc.tokens.tokenizer import GPT2_VOCAB_SIZE, Tokenizer
from llmc.tokens.tokenizer_json import Unheld, read_folder
from llmc.weights.base import UNSTACKED, NamedWeights, Origin, Tensor, Weights, layer_shapes
from llmc.weights.foreign import foreign_folder
from llmc.weights.names import EMBEDDING, HEAD, POSITIONS, PREFIX, listed, short_names
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
PADDED = 50304  # nanoGPT's default rows, of which GPT2_VOCAB_SIZE are tokens
CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
SUFFIX = ".safetensors"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# In a folder, the first of these is the model.
FILES = (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, PICKLE, PICKLE + INDEX_SUFFIX)

# Ours -> theirs; a "{}" takes the layer.
NAMES = {
    "wte": "wte.weight",
    "wpe": "wpe.weight",
    "ln1w": "h.{}.ln_1.weight",
    "ln1b": "h.{}.ln_1.bias",
    "qkvw": "h.{}.attn.c_attn.weight",
    "qkvb": "h.{}.attn.c_attn.bias",
    "attprojw": "h.{}.attn.c_proj.weight",
    "attprojb": "h.{}.attn.c_proj.bias",
    "ln2w": "h.{}.ln_2.weight",
    "ln2b": "h.{}.ln_2.bias",
    "fcw": "h.{}.mlp.c_fc.weight",
    "fcb": "h.{}.mlp.c_fc.bias",
    "fcprojw": "h.{}.mlp.c_proj.weight",
    "fcprojb": "h.{}.mlp.c_proj.bias",
    "lnfw": "ln_f.weight",
    "lnfb": "ln_f.bias",
}

CONV1D = HIDDEN_MATRICES  # theirs are (in, out)

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

    Matrices are Conv1D's, (in, out), or torch's Linear's, (out, in), as in nanoGPT, whose models
    may have no biases, and rows that pad the vocabulary.

    Attributes:
        entries: the tensors of the file under the names of ``NAMES``, without masks.
        linear: whether the matrices are Linear's.
    """

    names = NAMES
    head = HEAD
    readable = READABLE
    layers_in = "its configuration has"
    linear = False
    _rows = 0

    def take(self, config: ModelConfig) -> None:
        """Set the shape that is recorded or derived, and check the tensors.

        Raises:
            BadData: they are not those of a GPT-2 of this shape.
        """
        self.linear = is_linear(self.entries)
        self._rows = config.vocab_size
        if self.linear and self._rows == PADDED:
            config = replace(config, vocab_size=GPT2_VOCAB_SIZE)
            left_out = PADDED - GPT2_VOCAB_SIZE
            self.notes += (f"left out the {left_out} padding rows of its vocabulary",)
        self.config = config
        self.check(biases=not self.linear)
        if "ln_f.bias" not in self.entries:
            self.notes += ("it has no biases; they are set to zero",)

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer, memory-mapped if the file allows; zeros for no bias."""
        import numpy as np

        if self.names[name].format(layer) not in self.entries:
            shape = tensor_shapes(self.config)[name][name not in UNSTACKED :]
            return Stored("F32", np.zeros(shape, np.float32))
        found = super().stored(name, layer)
        if name == "wte":
            return Stored(found.kind, found.values[: self.config.vocab_size])
        is_turned = name in CONV1D and not self.linear
        return Stored(found.kind, found.values.T) if is_turned else found

    def stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in the file: Conv1D's is (in, out); the vocabulary may be padded."""
        if name == "wte":
            return (self._rows, *shape[1:])
        return shape[::-1] if name in CONV1D and not self.linear else shape


def is_linear(entries: Mapping[str, Tensor]) -> bool:
    """Tell whether matrices are torch's Linear's, (out, in): c_attn has three outputs an input."""
    entry = entries.get("h.0.attn.c_attn.weight")
    return entry is not None and len(entry.shape) == 2 and entry.shape[0] > entry.shape[1]


class HuggingFaceModel(HuggingFaceNames):
    """A folder with ``config.json`` and weights, or a file of weights."""

    def __init__(
        self, path: Path, loaded: Mapping[str, Tensor] | None = None, heads: int | None = None
    ) -> None:
        """Open a folder, a ``.safetensors`` file, a state dict of torch's, or an index of several.

        The shape comes from the ``config.json`` in the folder or beside the file. Without one it
        is derived from the tensors, which do not tell the number of heads.

        Args:
            path: the folder or file.
            loaded: the tensors of the file, if it has been read.
            heads: their number, if it is known. Default, for Conv1D's matrices: one for 64
                channels, as in OpenAI's GPT-2.

        Raises:
            MissingOutput: there is no such file.
            BadData: it is damaged, another architecture than GPT-2, or its heads are not known.
        """
        self.path = path
        if path.is_dir():
            found = [path / name for name in FILES if (path / name).is_file()]
            self.path = found[0] if found else path / SAFETENSORS
        if not self.path.is_file():
            raise MissingOutput(
                foreign_folder(path)
                or f"no {self.path}: 'llmc fetch gpt2' gets GPT-2's weights; weights of your own "
                "are a folder with config.json and model.safetensors, or one .safetensors file"
            )
        if loaded is None and self.path.name.endswith((SUFFIX, SUFFIX + INDEX_SUFFIX)):
            header = read_safetensors(self.path)
            loaded, self.origin = header.entries, Origin.of(header.metadata)
        elif loaded is None:
            from llmc.weights.torch import load_tensors

            loaded = load_tensors(self.path)
        self.entries = short_names(loaded, self.path)
        settings = self.path.with_name(CONFIG_FILE)
        if settings.is_file():
            self.take(read_config(settings))
            return
        config = derived_config(self.path, self.entries, heads)
        if is_linear(self.entries):
            self.notes += ("llmc uses GPT-2's tanh approximation of GELU, nanoGPT the exact one",)
        elif heads is None:
            self.notes += (
                f"heads of {HEAD_SIZE} channels are assumed, as in every GPT-2 that OpenAI "
                f"published: {config.heads} (--heads names another number)",
            )
        self.take(config)

    def tokenizer(self) -> Tokenizer | Unheld | None:
        """Return the tokenizer in the folder; errors as in the base class."""
        return read_folder(self.path.parent)

    def chat_template(self) -> str | None:
        """Return the text of the folder's chat template; None if it has none."""
        return chat_template_of(self.path.parent)


def read_config(path: Path) -> ModelConfig:
    """Return the shape in a ``config.json``.

    Raises:
        BadData: it is damaged, or of another architecture.
    """
    raw = b""
    try:
        raw = read_limited(path)
        table = from_json_file(raw)
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


def derived_config(path: Path, entries: Mapping[str, Tensor], heads: int | None) -> ModelConfig:
    """Return the shape derived from the tensors and the number of heads.

    Raises:
        BadData: they are not a GPT-2's, or the heads are not known.
    """
    matrices = [entries.get(name) for name in (EMBEDDING, POSITIONS)]
    layers = len({name.split(".")[1] for name in entries if name.startswith("h.")})
    if layers == 0 or any(entry is None or len(entry.shape) != 2 for entry in matrices):
        raise BadData(
            f"{path} has no {EMBEDDING}, {POSITIONS} and h.0…: it is not a GPT-2. "
            f"It has {listed(entries)}"
        )
    (rows, channels), (context, _) = (entry.shape for entry in matrices if entry)
    shape = f"{layers} layers, {channels} channels, context {context}, vocabulary {rows}"
    if heads is None and (is_linear(entries) or channels % HEAD_SIZE or not channels):
        raise BadData(
            f"{path} does not record its number of heads, and its tensors ({shape}) do not tell "
            "it: name it with 'llmc export-weights MODEL --heads N', or put the model's "
            "config.json beside the file"
        )
    try:
        return ModelConfig(layers, heads or channels // HEAD_SIZE, channels, context, rows)
    except Usage as error:
        raise BadData(f"{path} is not a GPT-2 of {shape}: {error}") from error


def write_hf_folder(
    folder: Path,
    weights: Weights,
    kind: str,
    *,
    eot: int | None,
    stops: Sequence[int] = (),
    origin: Origin,
    sampling: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json, generation_config.json and model.safetensors into a folder.

    The weights are one file, as in every GPT-2 that OpenAI published, the largest included. They
    are stored as ``kind``: ``F32``, ``F16`` or ``BF16``. ``eot`` is the id that begins and ends a
    text; None if the tokenizer is not known. ``stops`` are the ids that end an answer, where there
    is a chat template. ``sampling`` are llmc's settings for the model.

    Raises:
        BadData: a number is too large for F16.
        OSError: the disk is full.
    """
    settings: dict[str, object] = {"bos_token_id": eot, "eos_token_id": eot}
    _write_json(folder / CONFIG_FILE, _config(weights.config, kind) | settings)
    chosen = _generation(sampling, weights.config.context, eot) if sampling is not None else {}
    if len(stops) > 1:
        settings["eos_token_id"] = [*stops]
    _write_json(folder / GENERATION_FILE, settings | (chosen or {"_from_model_config": True}))
    metadata = {"format": "pt", **origin.metadata()}  # transformers requires the format
    write_safetensors(folder / SAFETENSORS, _plan(weights, kind), metadata)


def _generation(sampling: Mapping[str, Any], context: int, eot: int | None) -> dict[str, object]:
    """Return sampling settings as transformers names them.

    It fails beyond the last position, so a text ends there. Its own default is the 50 likeliest
    tokens, so 0, which is all of them, is said too.
    """
    is_random = sampling["temperature"] > 0
    chosen = {name: sampling[name] for name in ("temperature", "top_k", "top_p")}
    if sampling["min_p"] > 0:
        chosen["min_p"] = sampling["min_p"]
    return {
        "pad_token_id": eot,
        "do_sample": is_random,
        "max_length": context,
        "repetition_penalty": sampling["repetition_penalty"],
        **(chosen if is_random else {}),
    }


def _config(config: ModelConfig, kind: str) -> dict[str, object]:
    """Return the fields of ``GPT2Config``.

    Dropout is 0. Its rate belongs to a training run, not to the weights.
    """
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
        stored = shape[::-1] if name in CONV1D else shape
        blocks = _blocks(weights, name, layer)
        yield Planned(PREFIX + NAMES[name].format(layer), kind, stored, blocks)


def _blocks(weights: Weights, name: str, layer: int) -> Iterator[Floats]:
    """Yield a tensor's blocks; the tensor is opened when the first is needed."""
    import numpy as np

    blocks = weights.stored(name, layer).blocks()
    if name in CONV1D:
        yield np.concatenate(list(blocks)).T
    else:
        yield from blocks


def _write_json(path: Path, table: dict[str, object]) -> None:
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
