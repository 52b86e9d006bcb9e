"""Write tokenizers into files, and load what a dataset, a run or a checkpoint recorded."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmc.errors import BadData
from llmc.kinds import broken_explained
from llmc.parsing import read_json
from llmc.paths import write_json, written_whole
from llmc.text.documents import ENDOFTEXT
from llmc.tokens.files import is_file_name
from llmc.tokens.template import TEMPLATES
from llmc.tokens.tokenizer import WITHOUT_FILE, Tokenizer, load_tokenizer
from llmc.tokens.vocabulary import TOKENIZER_FILE, file_form

RECORD_FILE = "tokenizer.json"
HELD_FILE = "tokenizer.held.json"  # a tokenizer that is held as a document
# Of the files of NAME.bin's tokenizer.
TOKENS_SUFFIX, RECORD_SUFFIX = ".tiktoken", ".tokenizer.json"


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer's file, and a record beside tokens whose pattern is not GPT-2's.

    It is the document of a tokenizer that is held as one, else tokens in tiktoken's text form.

    Raises:
        BadData: the place cannot be written.
    """
    if tokenizer.document is not None:
        template = {"template": tokenizer.template.name} if tokenizer.template is not None else {}
        with written_whole(path) as partial:
            text = json.dumps({**tokenizer.document, **template}, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")
        return
    with written_whole(path) as partial:
        partial.write_bytes(file_form(tokenizer.ranks))
    if not tokenizer.is_plain:
        write_record(tokenizer, path.name, path.with_name(RECORD_FILE))


def keep_beside(tokenizer: Tokenizer, checkpoint: Path) -> Path | None:
    """Write the tokenizer of ``NAME.bin`` beside it; return its file.

    It is ``NAME.tiktoken`` or a document, ``NAME.tokenizer.json``. Where tokens alone do not define
    it, ``NAME.tokenizer.json`` is a record of it. Returns None for ``gpt2`` and ``byte``, whose
    name is enough.

    Raises:
        BadData: the place cannot be written.
    """
    tokens, record = (checkpoint.with_suffix(end) for end in (TOKENS_SUFFIX, RECORD_SUFFIX))
    if tokenizer.document is not None:
        save_tokenizer(tokenizer, record)
        return record
    is_named = tokenizer.name in WITHOUT_FILE
    if not is_named:
        with written_whole(tokens) as partial:
            partial.write_bytes(file_form(tokenizer.ranks))
    if tokenizer.is_plain and tokenizer.template is None:
        with suppress(BadData):  # it is not a record
            before = read_record(record)  # of a checkpoint that this one replaced
            if before is not None and before["file"] in (None, tokens.name):
                record.unlink()
        return None if is_named else tokens
    write_record(tokenizer, None if is_named else tokens.name, record)
    return record if is_named else tokens


def file_of(tokenizer: Tokenizer) -> str | None:
    """Return the name of the tokenizer's file; None if its name is enough to load it."""
    if tokenizer.document is not None:
        return HELD_FILE
    return None if tokenizer.name in WITHOUT_FILE else TOKENIZER_FILE


def load_recorded(
    folder: Path, name: str, fingerprint: str, file: str | None, template: str | None = None
) -> Tokenizer:
    """Load the tokenizer that a manifest or a run in ``folder`` recorded.

    ``file`` is the tokenizer's file in ``folder``, None for ``gpt2`` and ``byte``; ``template`` the
    name of its chat template.

    Raises:
        BadData: the file is gone or is not the one that was recorded, or the template is unknown.
    """
    from llmc.tokens.tokenizer_files import recorded_file

    if file is not None and not (folder / file).is_file():
        raise BadData(f"{folder / file} is gone: run 'llmc tokenize PATH' again")
    if file is None and name not in WITHOUT_FILE:
        raise BadData(f"{folder} names no file for its tokenizer '{name}': tokenize again")
    spec = str(folder / file) if file is not None else name
    tokenizer = recorded_file(folder / file) if file is not None else load_tokenizer(name)
    if tokenizer.fingerprint != fingerprint:
        raise BadData(
            f"the tokenizer {spec} is not the one that {folder} was made with (its fingerprint "
            "differs): run 'llmc tokenize PATH' again"
        )
    if template is None:
        return tokenizer
    if template not in TEMPLATES:
        raise BadData(f"{folder} has the chat template {template!r}, which this llmc does not know")
    return replace(tokenizer, template=TEMPLATES[template])


def record_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a run's tokenizer into ``folder``: tokenizer.json and, if needed, the tokens.

    Raises:
        BadData: the place cannot be written.
    """
    file = file_of(tokenizer)
    if file is not None:
        save_tokenizer(tokenizer, folder / file)
    write_record(tokenizer, file, folder / RECORD_FILE)


def recorded_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer that :func:`record_tokenizer` wrote into ``folder``; None: there is none.

    Raises:
        BadData: the record is broken, or the tokenizer is gone or changed.
    """
    return tokenizer_in(folder / RECORD_FILE)


def tokenizer_in(path: Path) -> Tokenizer | None:
    """Load the tokenizer of a record; None if there is no such file.

    Raises:
        BadData: the record is broken, or the tokenizer is gone or changed.
    """
    record = read_record(path)
    if record is None:
        return None
    return load_recorded(
        path.parent, record["name"], record["fingerprint"], record["file"], record.get("template")
    )


def write_record(tokenizer: Tokenizer, file: str | None, path: Path) -> None:
    """Write what a tokenizer is, and the name of its file in the same folder, if it needs one.

    Raises:
        BadData: the place cannot be written.
    """
    record: dict[str, Any] = {
        "name": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "file": file,
    }
    if tokenizer.template is not None:
        record["template"] = tokenizer.template.name
    if not tokenizer.is_plain and tokenizer.document is None:
        special = dict(tokenizer.special_tokens)
        record |= {"pattern": tokenizer.pattern, "special_tokens": special}
    write_json(path, record)


def read_record(path: Path) -> dict[str, Any] | None:
    """Read what :func:`write_record` wrote and check its types; None if there is no file."""
    if not path.exists():
        return None
    with broken_explained(path, "name the tokenizer with --tokenizer"):
        record: dict[str, Any] = read_json(path)
        file = record["file"]
        if not isinstance(record["name"], str) or not isinstance(record["fingerprint"], str):
            raise TypeError("name and fingerprint should be strings")
        if not isinstance(record.get("template", ""), str):
            raise TypeError("template should be a string")
        if file is not None and not is_file_name(file):
            raise ValueError(f"{file!r} should lie beside it")
        if "pattern" in record:
            special = record["special_tokens"]
            if not isinstance(record["pattern"], str) or ENDOFTEXT not in special:
                raise TypeError(f"pattern should be a string, {ENDOFTEXT} a special token")
            if not all(type(rank) is int and 0 <= rank < 2**31 for rank in special.values()):
                raise ValueError("special_tokens should be ids")
    return record
