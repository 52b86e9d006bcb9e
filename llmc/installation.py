"""How llmc is installed here, and the commands that a shell here runs.

The package and the command are called ``llmc``; the distribution, which pip installs, is called
:data:`DISTRIBUTION`, because ``llmc`` on PyPI is another project.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from llmc.parsing import from_json

DISTRIBUTION = "llmc-train"


def pip_install(*words: str) -> str:
    """Return the command that installs packages into this Python's environment."""
    return f"{_tool('pip')} install {shlex.join(words)}"


def install_command(extra: str) -> str:
    """Return the command that adds an optional dependency (``serve``, ``plot``, …).

    It names the clone that this installation was made from, if there is one, and PyPI otherwise.
    """
    clone = _clone()
    return pip_install(f"{'.' if clone == Path.cwd() else clone or DISTRIBUTION}[{extra}]")


def program() -> str:
    """Return what a shell in the current folder types to run this llmc."""
    return _tool("llmc")


def other_llmc() -> str | None:
    """Return the version of PyPI's other project called ``llmc``, if it is installed here too.

    Both install a package ``llmc``; the one installed last overwrites files of the other.
    """
    import importlib.metadata  # takes 0.02 s, which every command would wait for

    try:
        other = importlib.metadata.distribution("llmc")
    except importlib.metadata.PackageNotFoundError:
        return None
    return other.version if other.read_text("direct_url.json") is None else None


def _tool(name: str) -> str:
    """Return the shortest word that runs a program of this Python's environment."""
    import sysconfig  # takes 0.01 s, which llmc --help would wait for

    script = Path(sysconfig.get_path("scripts")) / name
    found = shutil.which(name)
    if found is not None and script.is_file() and Path(found).samefile(script):
        return name
    program, here = script if script.is_file() else Path(sys.executable), Path.cwd()
    typed = str(program.relative_to(here) if program.is_relative_to(here) else program)
    return shlex.quote(typed) if program == script else f"{shlex.quote(typed)} -m {name}"


def _clone() -> Path | None:
    """Return the folder of sources that this installation was made from, if it is still there."""
    import importlib.metadata

    places = [Path(__file__).resolve().parent.parent]
    try:
        origin = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        url = from_json(origin)["url"] if origin else ""
        if url.startswith("file://"):
            places.append(Path(url.removeprefix("file://")))
    except importlib.metadata.PackageNotFoundError:
        pass
    return next((place for place in places if (place / "pyproject.toml").is_file()), None)
