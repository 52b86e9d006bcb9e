"""nanoGPT's ``ckpt.pt``: the shape in ``model_args``, the tensors in ``model``; and its relatives.

The names are Hugging Face's, after ``_orig_mod.`` if the model was compiled. Matrices are torch's
Linear, (out, in). A model trained with ``bias=False`` has no biases, which equals zeros. The
default vocabulary is GPT-2's, padded from 50257 to 50304; the 47 unused rows are left out. Other
trainers keep a configuration beside the tensors under another name, such as build-nanogpt.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmc.errors import BadData, Usage
from llmc.kinds import DAMAGE
from llmc.model import ModelConfig
from llmc.tokens.files import is_file_name
from llmc.tokens.nanogpt import META, read_meta
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.base import Origin
from llmc.weights.huggingface import HuggingFaceNames
from llmc.weights.names import short_names
from llmc.weights.torch import tensors_in

NO_LOSS = 1e9
KEYS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
# Where trainers keep a model's configuration, and what its number of heads is called there.
LAYOUTS = ("config", "model_config", "gpt_config", "args", "hparams", "hyper_parameters", "cfg")
HEADS = ("n_head", "n_heads", "num_heads", "num_attention_heads", "heads")
GELU = "nanoGPT uses the exact GELU, llmc uses GPT-2's tanh approximation"


def is_nanogpt(loaded: Any) -> bool:
    """Return whether a file that torch loaded is a nanoGPT checkpoint."""
    return isinstance(loaded, Mapping) and {"model", "model_args"} <= set(loaded)


def recorded_heads(loaded: Any) -> int | None:
    """Return the number of heads in a configuration beside the tensors; None if none names it."""
    if not isinstance(loaded, Mapping):
        return None
    outer = [_fields(loaded.get(key)) for key in LAYOUTS]
    inner = [_fields(table.get(key)) for table in outer for key in LAYOUTS]
    named = (table[key] for table in (*outer, *inner) for key in HEADS if key in table)
    return next((heads for heads in named if type(heads) is int), None)


def _fields(layout: Any) -> Mapping[str, Any]:
    """Return the fields of a table or an object."""
    fields: Any = layout if isinstance(layout, Mapping) else getattr(layout, "__dict__", {})
    return fields if isinstance(fields, Mapping) else {}


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
            config = ModelConfig(*(operator.index(args[key]) for key in KEYS))
        except (*DAMAGE, Usage) as error:
            raise BadData(
                f"{path}: its model_args are not nanoGPT's ({type(error).__name__}: {error})"
            ) from error
        settings = loaded.get("config")
        self._dataset = str(settings.get("dataset", "")) if isinstance(settings, Mapping) else ""
        self.entries = short_names(tensors_in(path, loaded["model"]), path)
        self.origin = origin_of(loaded)
        self.notes = (GELU,)
        self.take(config)

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


def origin_of(loaded: Mapping[str, Any]) -> Origin:
    """Return the step, and the loss unless it is nanoGPT's initial 1e9."""
    steps = [loaded.get(key) for key in ("iter_num", "step", "global_step")]
    losses: list[Any] = [loaded.get(key) for key in ("best_val_loss", "val_loss")]
    step = next((step for step in steps if type(step) is int and step > 0), 0)
    loss = math.inf
    with suppress(
        *DAMAGE, RuntimeError, StopIteration
    ):  # torch's, of a tensor with several numbers
        loss = next(float(loss) for loss in losses if hasattr(loss, "__float__"))
    return Origin.possible(step, loss if 0 < loss < NO_LOSS else math.inf)
