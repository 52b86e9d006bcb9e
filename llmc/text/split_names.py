"""The split that the name of a file says: ``train``, ``validation`` or ``test``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from llmc.text.fields import listed
from llmc.text.reading import Reading, kind_of

Key = TypeVar("Key", bound=Hashable)  # a file: its path, or its number in an archive

TRAIN, VALIDATION = "train", "validation"

# The first of these formats that a repository has is the one that is read.
FORMATS = ("parquet", "arrow", "jsonl", "json", "csv", "tsv", "text")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".raw", ".tokens")
NO_DATA = re.compile(
    r"(readme|licen[cs]e|requirements|dataset_infos?|dataset_dict|state\.json|.*config)\b",
    re.IGNORECASE,
)

ABOUT = "is about the dataset, not text"

# What numbers a file among several, with what stands before it.
NUMBER = re.compile(r"([-_.]?(part|chunk|shard))?[-_.]?\d+([-_.]of[-_.]\d+)?", re.IGNORECASE)

# The words in the names of a split's files, as the hub recognizes them, for a card without splits.
SPLIT_WORDS = {
    TRAIN: "train|training",
    VALIDATION: "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}

# Files with the words as their names are splits if they are so large a part of those with their
# suffix. A folder of notes has a ``training.md``; a dataset has little beside its splits.
LEAST_NAMED = 1 / 4


def format_of(path: str) -> str | None:
    """Return the format of a file that may hold a dataset's text, else None."""
    name = PurePosixPath(path).name
    if NO_DATA.match(name):
        return None
    kind = kind_of(name, Reading())
    if kind.format != "text":
        return kind.format
    suffixes = PurePosixPath(name).suffixes
    if not suffixes and any(re.fullmatch(w, name, re.IGNORECASE) for w in SPLIT_WORDS.values()):
        return "text"
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
        if _is_in_folder_of(words, path):
            return split
    return None


def strict_splits(names: Mapping[Key, str]) -> dict[Key, str]:
    """Return the strict split of each file that has one, where such files are not few.

    Below ``LEAST_NAMED`` of the files with their suffix, ``training.md`` and ``eval.md`` are names
    of what is in them. A folder called ``train`` or ``test`` is a split however few its files are.
    """
    strict = all_strict(names)
    of_suffix = Counter(_suffix(name) for name in names.values())
    named = Counter(_suffix(names[file]) for file in strict)
    any_words = "|".join(SPLIT_WORDS.values())
    found = {}
    for file, split in strict.items():
        suffix = _suffix(names[file])
        is_in_folder = _is_in_folder_of(any_words, PurePosixPath(names[file]))
        if is_in_folder or named[suffix] >= LEAST_NAMED * of_suffix[suffix]:
            found[file] = split
    return found


def all_strict(names: Mapping[Key, str]) -> dict[Key, str]:
    """Return the same, however many files are called otherwise."""
    return {file: split for file, name in names.items() if (split := strict_split(name))}


def splits_by_name(names: Mapping[Key, str]) -> dict[Key, str]:
    """Return the splits that the names of files say; empty unless train and another are there."""
    data = {file: name for file, name in names.items() if format_of(name) in FORMATS}
    found = strict_splits(data) | alike_splits(data)
    return found if has_several(found) else {}


def has_several(splits: Mapping[Key, str]) -> bool:
    """Return whether train and another split are there."""
    return TRAIN in splits.values() and len({*splits.values()}) > 1


def why_left_out(name: str, split: str | None, advice: str) -> str | None:
    """Return why a file beside the splits of a dataset is not read; None if it is.

    ``advice`` says how to read a file of another split.
    """
    if split not in (None, TRAIN, VALIDATION):
        return f"is of the split {split}: {advice}"
    if split is None and NO_DATA.match(PurePosixPath(name).name):
        return ABOUT
    return None


def alike_splits(names: Mapping[Key, str]) -> dict[Key, str]:
    """Return the split of files whose names differ in its word and in numbers alone.

    They are called like ``wiki.train.txt`` and ``wiki.valid.txt``. Where most files are called
    otherwise, the words are about what is in them: ``on-training.md``, ``on-evaluation.md``.
    """
    alike = few_alike(names)
    return alike if 2 * len(alike) >= len(names) else {}


def few_alike(names: Mapping[Key, str]) -> dict[Key, str]:
    """Return the same, however many files are called otherwise."""
    found: dict[str, dict[Key, str]] = defaultdict(dict)
    for file, name in names.items():
        folder, _, last = name.rpartition("/")
        for split, words in SPLIT_WORDS.items():
            if match := re.search(rf"(?<![^-_.])({words})(?![^-_.])", last, re.IGNORECASE):
                rest = f"{folder}/{last[: match.start()]}/{last[match.end() :]}"
                found[NUMBER.sub("", rest)][file] = split
                break
    several = (files for files in found.values() if len({*files.values()}) > 1)
    return {file: split for files in several for file, split in files.items()}


def note_on_few(place: object, names: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence on files in a folder or archive that are called like those of splits.

    It is for where they are so few that all files are text.
    """
    data = {name: name for name in names if format_of(name) in FORMATS}
    strict = all_strict(data)
    few = sorted((strict if has_several(strict) else {}) | few_alike(data))
    if not few or alike_splits(data):
        return ()
    return (
        f"{place}: {listed(few)} are called like files of splits, and most files are not: "
        "all are read as text (--include chooses some)",
    )


def _is_in_folder_of(words: str, path: PurePosixPath) -> bool:
    folder = re.compile(rf"(split=)?({words})", re.IGNORECASE)
    return any(folder.fullmatch(part) for part in path.parts[:-1])


def _stem(path: PurePosixPath) -> str:
    return path.name.partition(".")[0]


def _suffix(name: str) -> str:
    """Return the last suffix of a name, before that of its compression."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if kind_of(name, Reading()).codec else path.suffix
