"""llmc: train GPT-2-class language models on the computer you already have.

The Python API, which :mod:`llmc.api` documents::

    import llmc

    data = llmc.tokenize("notes/", tokenizer="bpe:4096")
    run = llmc.train(data, model=llmc.ModelConfig(layers=4, heads=4, channels=128), steps=500)
    with llmc.load(run.folder) as model:
        print(model.sample("Dear diary", tokens=100))
    print(llmc.evaluate(run.folder).loss)

``import llmc`` imports nothing else; the first use of a name imports what it needs.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmc.api import evaluate as evaluate
    from llmc.api import load as load
    from llmc.api import sweep as sweep
    from llmc.api import tokenize as tokenize
    from llmc.api import train as train
    from llmc.model import ModelConfig as ModelConfig

__version__ = "0.1.0"
__all__ = ["ModelConfig", "__version__", "evaluate", "load", "sweep", "tokenize", "train"]

_HOMES = dict.fromkeys(("evaluate", "load", "sweep", "tokenize", "train"), "llmc.api")
_HOMES["ModelConfig"] = "llmc.model"


class _Stage(ModuleType):
    """A package that is also a function of the API: ``llmc.train`` and ``llmc.evaluate``."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function of the package's name in :mod:`llmc.api`."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module("llmc.api"), name)(*args, **options)


class _Llmc(ModuleType):
    """This package; an import of ``llmc.train`` binds the package of that name to it."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Make packages named like a function callable."""
        if name in _HOMES and isinstance(value, ModuleType):
            value.__class__ = _Stage
        super().__setattr__(name, value)


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a name of the API on its first use."""
        if name in ("train", "evaluate"):
            return importlib.import_module(f"llmc.{name}")
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'llmc' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the names of the API, imported or not."""
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Llmc
