"""A dataset's manifest as far as it can be read: whole, broken, of one file a split or of many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.reading import LARGEST_TEXT, file_size
from llmc.errors import LlmcError
from llmc.tokens.manifest import FILENAME
from llmc.tokens.tokenizer import Tokenizer, load_recorded


@dataclass(frozen=True)
class Entry:
    """One token file as a manifest names it."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What a manifest says of one of its files."""

    path: Path
    fields: Mapping[str, Any]
    entry: Entry

    def load_tokenizer(self, made: Description) -> Tokenizer | None:
        """Return the tokenizer, saying which it is, or what became of it."""
        return recorded(self.path.parent, self.fields, made)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: it is no JSON, too large or nested too deeply; the message says which.
        OSError: it cannot be read.
    """
    if (size := file_size(path)) > LARGEST_TEXT:
        raise ValueError(f"{size:,} bytes of JSON are more than llmc reads ({LARGEST_TEXT:,})")
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def entries(split: object) -> list[Entry]:
    """Return the files of a split, which a manifest gives as one table or as a list of them.

    What is no table of ``file``, ``tokens`` and ``sha256`` is left out: whoever checks the whole
    manifest says so.
    """
    items = split if isinstance(split, list) else [split]
    found = []
    for item in items:
        if not isinstance(item, dict):
            continue
        file, tokens, sha256 = (item.get(key) for key in ("file", "tokens", "sha256"))
        if isinstance(file, str) and type(tokens) is int and isinstance(sha256, str):
            beside = file not in ("", "..") and "\0" not in file and Path(file).name == file
            found += [Entry(file, tokens, sha256)] if beside else []
    return found


def record_of(path: Path) -> Record | None:
    """Return what the manifest beside a token file says of it, None where none does."""
    place = path.parent / FILENAME
    try:
        fields = read_json(place)
    except (OSError, ValueError):
        return None
    if not isinstance(fields, dict):
        return None
    for split in ("train", "val"):
        for entry in entries(fields.get(split)):
            if entry.file == path.name:
                return Record(place, fields, entry)
    return None


def recorded(folder: Path, fields: Mapping[str, Any], made: Description) -> Tokenizer | None:
    """Return the tokenizer that a manifest's or a run's fields name; say what it is."""
    record = fields.get("tokenizer", fields)
    name, fingerprint, file = (
        record.get(key) if isinstance(record, dict) else None
        for key in ("name", "fingerprint", "file")
    )
    if not isinstance(name, str) or not isinstance(fingerprint, str):
        made.say("tokenizer", None, "not named as llmc names one")
        return None
    if file is not None and (not isinstance(file, str) or "\0" in file or Path(file).name != file):
        made.wrong(f"the tokenizer's file {safe_text(repr(file))} does not lie beside it")
        return None
    shown = f"{safe_text(name)}, fingerprint {safe_text(fingerprint[:16])}…"
    made.note("tokenizer_fingerprint", fingerprint)
    try:
        tokenizer = load_recorded(folder, name, fingerprint, file)
    except LlmcError as error:
        made.say("tokenizer", name, f"{shown}, which cannot be loaded")
        if file is None and name == "gpt2":
            made.say("vocabulary", None, safe_text(str(error), None))  # no fault of this file
        else:
            made.wrong(safe_text(str(error), None))
        return None
    vocabulary = f"{tokenizer.vocab_size:,} tokens, the last <|endoftext|>"
    made.say("tokenizer", name, f"{shown}, found: {vocabulary}")
    return tokenizer
