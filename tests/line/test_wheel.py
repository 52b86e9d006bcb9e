"""A wheel built from the project carries all it needs, and works from an empty directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llmc import __version__
from llmc.paths import shipped_dir
from tests.helpers.places import ROOT
from tests.helpers.workspace import PRESET


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    python(ROOT, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out))
    (path,) = out.glob("*.whl")
    return path


def python(folder: Path, *args: str, **env: str) -> str:
    """Run this Python with those arguments in ``folder``; return what it said on stdout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLMC_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={**kept, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_it_carries_the_engine_s_sources_and_the_presets(wheel: Path) -> None:
    assert wheel.name == f"llmc_train-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("native", "configs"):
        shipped = shipped_dir(folder)
        files = [path for path in shipped.rglob("*") if path.suffix in (".c", ".h", ".toml")]
        assert len(files) > 4
        for path in files:
            assert f"llmc/{folder}/{path.relative_to(shipped)}" in names
    assert {"llmc/check/known_answers.json", "llmc/serve/page.html"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"llmc", f"llmc_train-{__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".o", ".bin"))]


def test_it_works_from_an_empty_directory(wheel: Path, tmp_path: Path, cache: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    python(empty, "-m", "pip", "install", *options, "--target", str(site), str(wheel))
    env = {"PYTHONPATH": str(site), "LLMC_CACHE_DIR": str(cache)}

    def llmc(*args: str) -> str:
        return python(empty, "-m", "llmc", *args, **env)

    place = python(empty, "-c", "import llmc.paths as p; print(p.shipped_dir('native'))", **env)
    assert place.strip() == str(site / "llmc" / "native")
    assert llmc("--version") == f"llmc {__version__}\n"
    assert list(empty.iterdir()) == []
    llmc("build")
    assert "FAIL" not in llmc("doctor")
    (empty / "tiny.toml").write_text(PRESET)
    (empty / "text.txt").write_text("some words, and some more words\n" * 100)
    llmc("prepare", "text.txt", "--tokenizer", "byte", "--model", "random:tiny.toml")
    said = llmc("train", "--config", "tiny.toml", "--steps", "2")
    assert said.count("train loss") == 2
    llmc("prepare", "text.txt", "--tokenizer", "byte", "--model", "random:python-stdlib")
    assert llmc("train", "--config", "python-stdlib", "--seq-len", "8", "--steps", "1")
    assert (site / "bin" / "llmc").is_file()
