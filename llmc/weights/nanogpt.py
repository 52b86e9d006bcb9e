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
from llmc.model import ModelConfig
from llmc.weights.base import Origin
from llmc.weights.huggingface import NamedModel, short_names
from llmc.weights.torch import TorchTensors, tensors_in

COMPILED = "_orig_mod."
NO_LOSS = 1e9
PADDED, VOCAB_SIZE = 50304, 50257
DIMENSIONS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


def is_nanogpt(loaded: Any) -> bool:
    """Return whether a file that torch loaded is a nanoGPT checkpoint."""
    return isinstance(loaded, Mapping) and {"model", "model_args"} <= set(loaded)


class NanoGptModel(NamedModel):
    """A checkpoint saved by nanoGPT's ``train.py``."""

    conv1d = False
    biases = False

    def __init__(self, path: Path, loaded: Mapping[str, Any]) -> None:
        """Check what torch loaded from ``path``.

        Raises:
            BadData: it is damaged, or another model than nanoGPT's.
        """
        args = loaded["model_args"]
        try:
            layers, heads, channels, context, vocab = (int(args[name]) for name in DIMENSIONS)
            self._rows = vocab
            vocab_size = VOCAB_SIZE if vocab == PADDED else vocab
            config = ModelConfig(layers, heads, channels, context, vocab_size)
        except (KeyError, TypeError, ValueError, Usage) as error:
            raise BadData(
                f"{path}: its model_args are not nanoGPT's ({type(error).__name__}: {error})"
            ) from error
        tensors = TorchTensors(path, tensors_in(path, loaded["model"]))
        names = {name.removeprefix(COMPILED): name for name in tensors.entries}
        short = short_names({name: tensors.entries[full] for name, full in names.items()})
        super().__init__(tensors, {key: names[name] for key, name in short.items()}, config)
        self.origin = _origin(loaded)
        self.notes = ("nanoGPT uses the exact GELU, llmc uses GPT-2's tanh approximation",)
        if vocab == PADDED:
            self.notes += (f"left out the {PADDED - VOCAB_SIZE} padding rows of its vocabulary",)
        if "ln_f.bias" not in self.entries:
            self.notes += ("it has no biases; they are set to zero",)

    def rows(self) -> int:
        """Return how many rows the file's token embedding has."""
        return self._rows


def _origin(loaded: Mapping[str, Any]) -> Origin:
    """Return the step, and the loss unless it is nanoGPT's initial 1e9."""
    step, found = loaded.get("iter_num"), loaded.get("best_val_loss")
    loss = float(found) if found is not None and hasattr(found, "__float__") else math.inf
    known_step = step if isinstance(step, int) and step > 0 else 0
    return Origin(known_step, loss if 0 < loss < NO_LOSS else None)
