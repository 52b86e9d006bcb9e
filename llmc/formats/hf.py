"""GPT-2 as Hugging Face stores it: ``config.json`` and ``model.safetensors``, to llmc's tensors.

Names come with or without the prefix ``transformer.``. Conv1D keeps its weights as (in, out), so
four kinds of them are transposed. ``attn.bias`` and ``attn.masked_bias`` are masks, not weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.config import ModelConfig
from llmc.errors import BadData, MissingOutput, Usage
from llmc.formats.checkpoint import from_bf16, tensor_shapes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

HEAD_SIZE = 64  # of every GPT-2 that OpenAI published
PREFIX = "transformer."
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")

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

# What a config.json may say without being another model than ours.
REQUIRED: dict[str, tuple[object, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}

STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class HuggingFaceModel:
    """A GPT-2 in a safetensors file, checked by name and shape; its data is read when asked for.

    Attributes:
        path: the ``.safetensors`` file.
        config: the model's shape.
    """

    def __init__(self, path: Path) -> None:
        """Open a directory or a ``.safetensors`` file.

        The shape is that of the ``config.json`` in the directory or beside the file. A file without
        one gives its own, with heads of 64 channels, as in every GPT-2 that OpenAI published.

        Raises:
            MissingOutput: there is no such file.
            BadData: it is damaged, or another architecture than GPT-2.
        """
        self.path = path / "model.safetensors" if path.is_dir() else path
        if not self.path.is_file():
            raise MissingOutput(
                f"no {self.path}: 'llmc fetch gpt2' gets GPT-2's weights; weights of your own are "
                "a folder with config.json and model.safetensors, or one .safetensors file"
            )
        self._entries = _entries(self.path)
        settings = self.path.with_name("config.json")
        self.config = (
            _read_config(settings)
            if settings.is_file()
            else _derived_config(self.path, self._entries)
        )
        self._check()

    def tensors(self) -> Iterator[tuple[str, Floats]]:
        """Yield llmc's names and float32 arrays, in the order and shapes of ``tensor_shapes``.

        ``wte`` lacks its padding rows, which ``write_checkpoint`` adds.

        Raises:
            BadData: there is an lm_head that is not the token embedding.
        """
        import numpy as np

        if "lm_head.weight" in self._entries and not np.array_equal(
            self._read("lm_head.weight"), self._read("wte.weight")
        ):
            raise BadData(
                f"{self.path}: lm_head.weight differs from wte.weight, but GPT-2 ties them: "
                "this is another model"
            )
        for name, shape in tensor_shapes(self.config).items():
            yield name, self._stacked(*NAMES[name], shape)

    def _stacked(self, theirs: str, conv1d: bool, shape: tuple[int, ...]) -> Floats:
        import numpy as np

        if "{}" not in theirs:
            return self._read(theirs)
        stacked = np.empty(shape, np.float32)
        for layer in range(self.config.layers):
            values = self._read(theirs.format(layer))
            stacked[layer] = values.T if conv1d else values
        return stacked

    def _read(self, name: str) -> Floats:
        import numpy as np

        entry = self._entries[name]
        stored: NDArray[Any] = np.memmap(
            self.path, STORED[entry.dtype], "r", entry.offset, entry.shape
        )
        return from_bf16(stored) if entry.dtype == "BF16" else stored.astype(np.float32, copy=False)

    def _check(self) -> None:
        """Compare names, shapes and types with what the config demands.

        Raises:
            BadData: they differ.
        """
        wanted = _shapes(self.config)
        for name, shape in wanted.items():
            if name not in self._entries:
                raise BadData(f"{self.path} has no tensor {name}: it is not a whole GPT-2")
            if self._entries[name].shape != shape:
                raise BadData(
                    f"{self.path}: {name} has the shape {self._entries[name].shape}, not {shape}; "
                    "its config.json belongs to another model"
                )
        wanted["lm_head.weight"] = wanted["wte.weight"]
        for name, entry in self._entries.items():
            if name not in wanted:
                raise BadData(
                    f"{self.path} has a tensor {name}, which a GPT-2 of its shape has not"
                )
            if entry.dtype not in STORED:
                raise BadData(
                    f"{self.path}: {name} is of type {entry.dtype}; llmc reads F32, F16, BF16, F64"
                )


def _entries(path: Path) -> dict[str, Entry]:
    """Return the tensors of a safetensors file by name, without prefix and masks.

    Raises:
        BadData: the file is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # The library checks that header, offsets and file size agree; its numpy interface cannot
        # give bfloat16, so the data is read at the offsets it has approved.
        with safe_open(path, framework="numpy"), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except SafetensorError as error:
        raise BadData(
            f"{path} is damaged or not a safetensors file ({error}): get it again"
        ) from error
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or error}") from error
    header.pop("__metadata__", None)
    found = {}
    for name, item in header.items():
        short = name.removeprefix(PREFIX)
        if not MASK.fullmatch(short):
            found[short] = Entry(
                item["dtype"], tuple(item["shape"]), 8 + size + item["data_offsets"][0]
            )
    return found


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors under Hugging Face's names."""
    shapes = {}
    for name, shape in tensor_shapes(config).items():
        theirs, conv1d = NAMES[name]
        if "{}" not in theirs:
            shapes[theirs] = shape
            continue
        one = shape[:0:-1] if conv1d else shape[1:]
        shapes |= {theirs.format(layer): one for layer in range(config.layers)}
    shapes["wte.weight"] = (config.vocab_size, config.channels)
    return shapes


def _read_config(path: Path) -> ModelConfig:
    """Return the shape that a ``config.json`` tells.

    Raises:
        BadData: it is damaged, or tells of another architecture.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
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
        raise BadData(f"{path} is not GPT-2's config.json: {error}") from error


def _derived_config(path: Path, entries: dict[str, Entry]) -> ModelConfig:
    """Return the shape that the tensors themselves tell, with heads of 64 channels.

    Raises:
        BadData: they are not a GPT-2's, or 64 does not divide the channels.
    """
    matrices = [entries.get(name) for name in ("wte.weight", "wpe.weight")]
    layers = len({name.split(".")[1] for name in entries if name.startswith("h.")})
    if layers == 0 or any(entry is None or len(entry.shape) != 2 for entry in matrices):
        raise BadData(f"{path} has no wte.weight, wpe.weight and h.0…: it is not a GPT-2")
    (vocab_size, channels), (context, _) = (entry.shape for entry in matrices if entry)
    if channels % HEAD_SIZE:
        raise BadData(
            f"{path} tells nothing of its heads, and its {channels} channels are no multiple of "
            f"{HEAD_SIZE}: put the model's config.json beside it"
        )
    return ModelConfig(layers, channels // HEAD_SIZE, channels, context, vocab_size)
