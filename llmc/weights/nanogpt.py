"""nanoGPT's ``ckpt.pt``: the shape in ``model_args``, the tensors in ``model``.

The names are Hugging Face's, after ``_orig_mod.`` if the model was compiled. Matrices are torch's
Linear, (out, in). A model trained with ``bias=False`` has no biases, which equals zeros. The
default vocabulary is GPT-2's, padded from 50257 to 50304; the 47 unused rows are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.errors import BadData, Usage
from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens.files import is_file_name
from llmc.tokens.nanogpt import META, read_meta
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.base import UNSTACKED, Origin
from llmc.weights.huggingface import HuggingFaceNames, short_names
from llmc.weights.number_types import Stored
from llmc.weights.torch import tensors_in

NO_LOSS = 1e9
PADDED, VOCAB_SIZE = 50304, 50257
KEYS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


def is_nanogpt(loaded: Any) -> bool:
    """Return whether a file that torch loaded is a nanoGPT checkpoint."""
    return isinstance(loaded, Mapping) and {"model", "model_args"} <= set(loaded)


class NanoGptModel(HuggingFaceNames):
    """A checkpoint saved by nanoGPT's ``train.py``."""

    def __init__(self, path: Path, loaded: Mapping[str, Any]) -> None:
        """Check what torch loaded from ``path``.

        Raises:
            BadData: it is damaged, or another model than nanoGPT's.
        """
        self.path = path
        args = loaded["model_args"]
        try:
            layers, heads, channels, context, rows = (int(args[key]) for key in KEYS)
            vocab_size = VOCAB_SIZE if rows == PADDED else rows
            self.config = ModelConfig(layers, heads, channels, context, vocab_size)
        except (KeyError, TypeError, ValueError, Usage) as error:
            raise BadData(
                f"{path}: its model_args are not nanoGPT's ({type(error).__name__}: {error})"
            ) from error
        self._rows = rows
        settings = loaded.get("config")
        self._dataset = str(settings.get("dataset", "")) if isinstance(settings, Mapping) else ""
        tensors = tensors_in(path, loaded["model"])
        self.entries = short_names(tensors)
        self.check(biases=False)
        self.origin = _origin(loaded)
        self.notes = ("nanoGPT uses the exact GELU, llmc uses GPT-2's tanh approximation",)
        if rows == PADDED:
            self.notes += (f"left out the {PADDED - VOCAB_SIZE} padding rows of its vocabulary",)
        if "ln_f.bias" not in self.entries:
            self.notes += ("it has no biases; they are set to zero",)

    def tokenizer(self) -> Tokenizer | None:
        """Return the characters in the ``meta.pkl`` beside the checkpoint, or in nanoGPT's data.

        Raises:
            BadData: it is damaged.
        """
        places = [self.path.parent]
        if is_file_name(self._dataset):
            places.append(self.path.parent.parent / "data" / self._dataset)
        found = [place / META for place in places if (place / META).is_file()]
        return read_meta(found[0]) if found else None

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer; zeros for a missing bias."""
        import numpy as np

        if self.names[name].format(layer) not in self.entries:
            shape = tensor_shapes(self.config)[name][name not in UNSTACKED :]
            return Stored("F32", np.zeros(shape, np.float32))
        found = super().stored(name, layer)
        return (
            Stored(found.kind, found.values[: self.config.vocab_size]) if name == "wte" else found
        )

    def stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor in the file; the vocabulary may be padded."""
        return (self._rows, *shape[1:]) if name == "wte" else shape


def _origin(loaded: Mapping[str, Any]) -> Origin:
    """Return the step, and the loss unless it is nanoGPT's initial 1e9."""
    step, found = loaded.get("iter_num"), loaded.get("best_val_loss")
    loss = float(found) if found is not None and hasattr(found, "__float__") else math.inf
    known_step = step if isinstance(step, int) and step > 0 else 0
    return Origin(known_step, loss if 0 < loss < NO_LOSS else None)
