"""Programs outside the package, as modules: those of tools/ and docs/."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load_program(path: Path) -> ModuleType:
    """Run a program's file as a module of that name, which no other module can import."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # its dataclasses look it up
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module
