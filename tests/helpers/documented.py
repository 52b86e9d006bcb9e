"""The commands that the documentation prints, and a workspace in which they take little time."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKS = ("network", "slow", "skip:")
MPI = "mpi"  # the mark of a block that runs where mpirun is installed
FENCE = re.compile(
    r"^(?:<!-- (skip: [^\n]*) -->\n)?( *)```(\w*)[ ]?([^\n]*)\n(.*?)^\2```$", re.M | re.S
)
ASSIGNMENT = re.compile(r"[A-Z_]+=")
# Where the tiny presets and the short standard library are, for commands that a shell starts.
SMALL = "LLMC_DOCS_SMALL"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: language, words after it or in a comment before, text."""

    page: Path
    line: int
    language: str
    words: str
    text: str

    @property
    def marked(self) -> bool:
        """Whether the block is not to be run: it needs a network, or much time, or more."""
        return self.words.startswith(MARKS)

    @property
    def needs_mpi(self) -> bool:
        """Whether the block runs only where mpirun is installed."""
        return self.words == MPI

    def commands(self) -> list[str]:
        """Return the commands; lines that a backslash joins are one, comments are none."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text("utf-8")
    return [
        Block(
            page, text.count("\n", 0, found.start()) + 1, found[3], found[1] or found[4], found[5]
        )
        for found in FENCE.finditer(text)
    ]


def words_of(command: str) -> list[str] | None:
    """Return the arguments of a plain ``llmc …``; None where a shell has to read the command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    shell = any(set(word) <= set("();<>|&") for word in words) or "$" in command
    return words[1:] if words[:1] == ["llmc"] and not shell else None


def llmc_calls(command: str) -> Iterator[list[str]]:
    """Return the arguments of every ``llmc …`` within a shell's command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    call: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&") or word in ("do", "done"):
            while call and ASSIGNMENT.match(call[0]):
                call.pop(0)
            if call[:1] == ["llmc"]:
                yield call[1:]
            call = []
        else:
            call.append(word)


def make_small(folder: Path) -> Path:
    """Write presets of the shipped names with tiny models, and a small standard library."""
    (folder / "configs").mkdir(parents=True)
    for preset in (ROOT / "configs").glob("*.toml"):
        text = preset.read_text("utf-8")
        for key, value in (
            ("layers", 1), ("heads", 2), ("channels", 32), ("context", 64), ("steps", 6),
            ("warmup", 1), ("batch_size", 2), ("seq_len", 16), ("val_every", 2),
            ("val_tokens", 200), ("sample_every", 0), ("save_every", 2),
        ):  # fmt: skip
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.M)
        text = re.sub(r"^total_batch_size = .*$", "total_batch_size = 64", text, flags=re.M)
        (folder / "configs" / preset.name).write_text(text)
    import sysconfig

    library = Path(sysconfig.get_path("stdlib"))
    (folder / "lib").mkdir()
    for name in ("ast", "argparse", "codecs", "datetime", "dis", "enum", "functools", "inspect"):
        (folder / "lib" / f"{name}.py").write_bytes((library / f"{name}.py").read_bytes())
    return folder


@contextmanager
def small(folder: Path) -> Iterator[None]:
    """Let llmc find the tiny presets and the short standard library of ``folder``."""
    import llmc.fetch.registry
    import llmc.preset
    from llmc.paths import shipped_dir

    def shipped(name: str) -> Path:
        return folder / "configs" if name == "configs" else shipped_dir(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llmc.preset, "shipped_dir", shipped)
        patch.setattr(llmc.fetch.registry, "stdlib_folder", lambda: folder / "lib")
        yield


def run(arguments: list[str]) -> int:
    """Run ``llmc`` with these arguments in this process and return its exit code.

    A time that training is given becomes a short one.
    """
    from llmc.cli.main import main

    if "--for" in arguments:
        arguments = [*arguments]
        at = arguments.index("--for") + 1
        arguments[at] = "1s" if arguments[at] == "1s" else "2s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["llmc", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


if __name__ == "__main__":
    with small(Path(os.environ[SMALL])):
        sys.exit(run(sys.argv[1:]))
