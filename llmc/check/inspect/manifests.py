"""The manifest beside a token file, and the tokenizer that a manifest or a run records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, safe_text
from llmc.errors import LlmcError
from llmc.tokens.manifest import FILENAME, Shard, scan_manifest
from llmc.tokens.tokenizer import Tokenizer, load_recorded


@dataclass(frozen=True)
class ManifestEntry:
    """A token file in a manifest.

    Attributes:
        path: the manifest.
        fields: the contents of the manifest.
        shard: the entry.
    """

    path: Path
    fields: Mapping[str, Any]
    shard: Shard


def manifest_entry(path: Path) -> ManifestEntry | None:
    """Return the entry of a token file in the manifest beside it, or None."""
    place = path.parent / FILENAME
    try:
        fields, _ = scan_manifest(place)
    except OSError:
        return None
    for entry in (*fields.get("train", ()), *fields.get("val", ())):
        if entry["file"] == path.name:
            return ManifestEntry(place, fields, Shard(**entry))
    return None


def say_recorded(made: Description, folder: Path, fields: Mapping[str, Any]) -> Tokenizer | None:
    """Add the tokenizer that a manifest or a run records, and return it."""
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
