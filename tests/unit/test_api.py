"""``import llmc``: the names of the API, and nothing heavy before one is used."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import llmc
import llmc.evaluate.loss
import llmc.train.loop
from llmc import api
from llmc.paths import shipped_dir


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_llmc_imports_nothing_else() -> None:
    loaded = run(
        "import sys, __future__, importlib, types, typing; before = {*sys.modules}\n"
        "import llmc; llmc.__version__; dir(llmc); print(*{*sys.modules} - before)"
    )
    assert loaded.split() == ["llmc"]


@pytest.mark.parametrize("first", ["", "import llmc.train.loop, llmc.evaluate.loss\n"])
def test_the_names_are_callable_before_and_after_their_packages_are_imported(first: str) -> None:
    script = "import llmc\nfor name in llmc.__all__[2:]: assert callable(getattr(llmc, name)), name"
    run(first + script)


def test_a_stage_is_its_package_and_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(llmc.train, ModuleType)
    assert isinstance(llmc.evaluate, ModuleType)
    monkeypatch.setattr(api, "train", lambda *args, **options: (args, options))
    assert llmc.train("x", steps=2) == (("x",), {"steps": 2})


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llmc.nonsense  # type: ignore[attr-defined]


def test_the_package_is_typed() -> None:
    assert (shipped_dir("native").parent / "llmc" / "py.typed").is_file()
