"""Find the tokenizer in a file or a folder, whatever program wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.errors import BadData
from llmc.kinds import HEAD_BYTES, broken_explained, kind_of_bytes, not_data
from llmc.tokens import tokenizer_json
from llmc.tokens.held import MARK, from_document
from llmc.tokens.nanogpt import META, read_meta
from llmc.tokens.tokenizer import RECORD_FILE, Tokenizer, recorded_tokenizer, tokens_file

_ADVICE = "get it again, or name another with --tokenizer"


def tokenizer_at(spec: str) -> Tokenizer | None:
    """Return the tokenizer of a file or folder; None if there is no such place.

    It is what llmc wrote: tokens in tiktoken's form, a document, or the record in a run's or a
    dataset's folder; a Hugging Face ``tokenizer.json``, ``vocab.json`` or ``merges.txt`` (each
    with the other; ``vocab.json+merges.txt`` too), or the folder of one; or nanoGPT's ``meta.pkl``.

    Raises:
        BadData: it is damaged, llmc cannot hold it, or the folder has none.
    """
    path = Path(spec)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _in_file(path)
    first, _, second = spec.partition("+")
    if second and all(Path(each).is_file() for each in (first, second)):
        return _holdable(Path(first), tokenizer_json.read_pair(Path(first), Path(second)))
    return None


def _in_file(path: Path) -> Tokenizer:
    with broken_explained(f"the tokenizer {path}", _ADVICE), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    is_merges = head.startswith(tokenizer_json.MERGES_START)
    if is_merges or path.name in tokenizer_json.OLDER_NAMES:
        return _holdable(path, tokenizer_json.read_beside(path))
    kind = kind_of_bytes(head)
    if kind == "pickle":
        return read_meta(path)
    if kind == "json":
        return _of_json(path)
    if (sentence := not_data(head, str(path))) is not None:
        raise BadData(sentence)
    return tokens_file(path)


def _in_folder(folder: Path) -> Tokenizer:
    from llmc.tokens.manifest import FILENAME, load_manifest

    if (folder / FILENAME).is_file():
        return load_manifest(folder).load_tokenizer()
    if _is_record(folder / RECORD_FILE) and (recorded := recorded_tokenizer(folder)) is not None:
        return recorded
    if (folder / META).is_file():
        return read_meta(folder / META)
    found = tokenizer_json.read_folder(folder)
    if found is None:
        raise BadData(
            f"the folder {folder} has no tokenizer: name one with a tokenizer.json, a vocab.json "
            f"and a merges.txt, a {META}, or a dataset's or a run's"
        )
    return _holdable(folder, found)


def _is_record(path: Path) -> bool:
    """Tell whether a tokenizer.json is llmc's record, not Hugging Face's tokenizer."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(table, dict) and {"name", "fingerprint", "file"} <= table.keys()


def _of_json(path: Path) -> Tokenizer:
    with broken_explained(f"the tokenizer {path}", _ADVICE):
        table: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, Mapping):
            raise TypeError("it is not a JSON object")
        if MARK in table:
            return from_document(table)
    if _is_record(path) and path.name == RECORD_FILE:
        recorded = recorded_tokenizer(path.parent)
        assert recorded is not None
        return recorded
    if "model" not in table:
        return _holdable(path, tokenizer_json.read_beside(path))
    return _holdable(path, tokenizer_json.read_file(path))


def _holdable(path: Path, found: Tokenizer | tokenizer_json.Unheld) -> Tokenizer:
    if isinstance(found, tokenizer_json.Unheld):
        raise BadData(
            f"llmc cannot hold the tokenizer {path}: {found.reason}; encode the text with the "
            "program it belongs to and bring the tokens ('llmc tokenize FILE --dtype uint16'), or "
            "choose another --tokenizer"
        )
    return found
