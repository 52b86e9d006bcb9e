"""The split that the name of a file says: ``train``, ``validation`` or ``test``."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from llmc.text.reading import Reading, kind_of

TRAIN, VALIDATION = "train", "validation"

# The first of these formats that a repository has is the one that is read.
FORMATS = ("parquet", "arrow", "jsonl", "json", "csv", "tsv", "text")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".raw", ".tokens")
NO_DATA = re.compile(
    r"(readme|licen[cs]e|requirements|dataset_infos?|dataset_dict|state\.json|.*config)\b",
    re.IGNORECASE,
)

# The words in the names of a split's files, as the hub recognizes them, for a card without splits.
SPLIT_WORDS = {
    TRAIN: "train|training",
    VALIDATION: "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}


def format_of(path: str) -> str | None:
    """Return the format of a file that may hold a dataset's text, else None."""
    name = PurePosixPath(path).name
    if NO_DATA.match(name):
        return None
    kind = kind_of(name, Reading())
    if kind.format != "text":
        return kind.format
    suffixes = PurePosixPath(name).suffixes
    return "text" if any(suffix in TEXT_SUFFIXES for suffix in suffixes[-2:]) else None


def split_of_path(path: str) -> str:
    """Return the split that the name of a file or folder says, as the hub recognizes it."""
    for split, words in SPLIT_WORDS.items():
        if re.search(rf"(^|[-_ ./])({words})([-_ ./0-9]|$)", path, re.IGNORECASE):
            return split
    return TRAIN


def strict_split(name: str) -> str | None:
    """Return the split in the name of a file or of a folder above it, if that is all it says."""
    path = PurePosixPath(name)
    for split, words in SPLIT_WORDS.items():
        if re.fullmatch(rf"({words})([-_.]?\d.*|[-_.]?(set|split|data))?", _stem(path), re.I):
            return split
        if any(re.fullmatch(words, part, re.IGNORECASE) for part in path.parts[:-1]):
            return split
    return None


def alike_splits(names: dict[Path, str]) -> dict[Path, str]:
    """Return the split of files whose names differ in its word and in numbers alone.

    They are called like ``wiki.train.txt`` and ``wiki.valid.txt``.
    """
    found: dict[str, dict[Path, str]] = defaultdict(dict)
    for file, name in names.items():
        folder, _, last = name.rpartition("/")
        for split, words in SPLIT_WORDS.items():
            if match := re.search(rf"(?<![^-_.])({words})(?![^-_.])", last, re.IGNORECASE):
                rest = f"{folder}/{last[: match.start()]}/{last[match.end() :]}"
                found[re.sub(r"\d+", "0", rest)][file] = split
                break
    several = (files for files in found.values() if len({*files.values()}) > 1)
    return {file: split for files in several for file, split in files.items()}


def _stem(path: PurePosixPath) -> str:
    return path.name.partition(".")[0]
