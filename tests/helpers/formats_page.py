"""The tables of docs/reference/formats.md, and the constants that they name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np

from llmc.model import ModelConfig
from tests.helpers.places import ROOT

PAGE = ROOT / "docs" / "reference" / "formats.md"
GPT2 = ModelConfig()
TINY = ModelConfig(layers=2, heads=2, channels=8, context=16, vocab_size=257)
LETTERS = {"L": "layers", "NH": "heads", "C": "channels", "maxT": "context", "V": "vocab_size"}


def tables() -> dict[str, list[list[str]]]:
    """Return the page's tables by their head, ``a | b``: rows of cells, without the head."""
    found = {}
    for table in re.findall(r"(?:^\|.*\n)+", PAGE.read_text("utf-8"), re.M):
        lines = [re.split(r"(?<!\\)\|", line.strip("|\n")) for line in table.splitlines()]
        rows = [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]
        head = " | ".join(rows[0])
        assert head not in found, head
        found[head] = rows[2:]
    return found


TABLES = tables()


def table(head: str) -> list[list[str]]:
    """Return the one table whose head begins so."""
    (name,) = [name for name in TABLES if name.startswith(head)]
    return TABLES[name]


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def ints(head: str) -> dict[int, str]:
    """Return what a table says of each int of a header."""
    return {int(row[0]): row[1] for row in table(f"int | {head}")}


def evaluated(shape: str, config: ModelConfig) -> tuple[int, ...]:
    """Return a shape of the page, such as ``(L, 3C, C)``, in numbers."""
    values = {name: getattr(config, field) for name, field in LETTERS.items()}
    values["Vp"] = config.padded_vocab_size
    result = []
    for part in shape.strip("()").split(", "):
        match = re.fullmatch(r"(\d*)([A-Za-z]+)", part)
        assert match, shape
        result.append(int(match[1] or 1) * values[match[2]])
    return tuple(result)


def raw_header(path: Path) -> list[int]:
    return [int(value) for value in np.frombuffer(path.read_bytes()[:1024], "<u4")]


@cache
def enums() -> dict[str, int]:
    """Return the constants of native/files/format.h."""
    text = re.sub(
        r"/\*.*?\*/", "", (ROOT / "native" / "files" / "format.h").read_text(), flags=re.S
    )
    found: dict[str, int] = {}
    for name, value in re.findall(r"(\w+) = ([^,}]+?)\s*[,}]", text):
        found[name] = int(value, 0) if re.fullmatch(r"\w+", value) and value[0].isdigit() else -1
    return found
