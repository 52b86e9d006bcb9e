"""The engine's C test programs, compiled once per version of the sources."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from llmc.engine import toolchain
from llmc.engine.build import build_programs
from llmc.engine.toolchain import Compiler, Mode
from llmc.paths import shipped_dir


def kept_programs(
    cache: Path,
    *,
    compiler: Compiler | None = None,
    mode: Mode = Mode.RELEASE,
    native: Path | None = None,
    tests: bool = True,
) -> dict[str, Path]:
    """Return the compiled test programs, or with ``tests=False`` the engine, by name.

    The programs stay in the cache beside the compiled engines, in a folder that a hash of their
    sources, flags and compiler names.

    Raises:
        CompileFailed: the compiler refused, or there is none.
    """
    compiler = compiler or toolchain.zig()
    native = native or shipped_dir("native")
    folder = cache / "native" / toolchain.build_key(compiler, native, mode, tests=tests)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            scratch = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("LLMC_CACHE_DIR", str(cache))
                    build_programs(
                        scratch, compiler=compiler, mode=mode, native=native, tests=tests
                    )
                for path in (*scratch.glob("*.o"), *scratch.glob("*.pdb")):
                    path.unlink()
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return {path.name: path for path in folder.iterdir()}
