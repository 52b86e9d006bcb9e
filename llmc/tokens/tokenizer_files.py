"""Find the tokenizer in a file or a folder, whatever program wrote it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmc.errors import BadData, Usage
from llmc.kinds import HEAD_BYTES, broken_explained, kind_of_bytes, not_data
from llmc.parsing import object_in, read_json, read_limited
from llmc.text.documents import ENDOFTEXT
from llmc.tokens import tokenizer_json
from llmc.tokens.held import MARK, from_document
from llmc.tokens.nanogpt import META, read_meta
from llmc.tokens.recorded import (
    RECORD_FILE,
    RECORD_SUFFIX,
    read_record,
    recorded_tokenizer,
    tokenizer_in,
)
from llmc.tokens.tokenizer import (
    Tokenizer,
    assembled,
    load_tokenizer,
    named_if_known,
    plain_tokenizer,
)
from llmc.tokens.vocabulary import PATTERNS, PUBLISHED_FILES, read_ranks

TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\n")
_ADVICE = "get it again, or name another with --tokenizer"


class UnknownPattern(Usage):
    """Tokens in tiktoken's form whose split pattern is not known."""


def tokenizer_at(spec: str, pattern: str | None = None) -> Tokenizer | None:
    """Return the tokenizer of a file or folder; None if there is no such place.

    It is what llmc wrote: tokens in tiktoken's form, a document, or the record in a run's or a
    dataset's folder; a Hugging Face ``tokenizer.json``, ``vocab.json`` or ``merges.txt`` (each
    with the other; ``vocab.json+merges.txt`` too), or the folder of one; or nanoGPT's ``meta.pkl``.
    ``pattern`` is the split pattern of tokens in tiktoken's form.

    Raises:
        Usage: their pattern is not known, or one is given for another tokenizer.
        BadData: it is damaged, llmc cannot hold it, or the folder has none.
    """
    path = Path(spec)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _in_file(path, pattern)
    first, _, second = spec.partition("+")
    if second and all(Path(each).is_file() for each in (first, second)):
        return _holdable(Path(first), tokenizer_json.read_pair(Path(first), Path(second)))
    return None


def _in_file(path: Path, pattern: str | None) -> Tokenizer:
    with broken_explained(f"the tokenizer {path}", _ADVICE), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if TIKTOKEN_LINE.match(head):
        return tokens_file(path, pattern)
    if pattern is not None:
        raise Usage(f"--pattern is the split pattern of a file in tiktoken's form, not of {path}")
    if any(path.match(name) for name in tokenizer_json.FOREIGN):
        raise _not_held(path, "it is a file of sentencepiece, WordPiece or Mistral's tokenizer")
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
    return tokens_file(path, None)


def recorded_file(path: Path) -> Tokenizer:
    """Return the tokenizer in a file whose fingerprint the caller compares with a record.

    Raises:
        BadData: it is damaged.
    """
    with broken_explained(f"the tokenizer {path}", _ADVICE), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if kind_of_bytes(head) == "json":
        return _of_json(path)
    return _by_record(path) or plain_tokenizer("bpe", read_ranks(path))


def tokens_file(path: Path, pattern: str | None) -> Tokenizer:
    """Return the tokenizer of tokens in tiktoken's form, which do not say how text is split.

    The pattern is the given one; that of the record beside the file; that of a file that OpenAI
    published; or GPT-2's where something beside the file records the fingerprint with it.

    Raises:
        UnknownPattern: none of these is there.
        Usage: the pattern is not a regular expression.
        BadData: the file or the record is damaged.
    """
    if pattern is None and (recorded := _by_record(path)) is not None:
        return recorded
    with broken_explained(f"the tokenizer {path}", _ADVICE):
        known = PUBLISHED_FILES.get(hashlib.sha256(read_limited(path)).hexdigest())
    ranks = read_ranks(path, gaps=known is not None or pattern is not None)
    if pattern is None and known is not None:
        name, split, special = known
        return assembled(name, ranks, PATTERNS[split], special)
    whole = len(ranks) == max(ranks.values()) + 1
    plain = named_if_known(plain_tokenizer("bpe", ranks)) if whole else None
    if pattern is None and plain is not None and _is_vouched_for(path, plain):
        return plain
    if pattern is None:
        raise UnknownPattern(
            f"{path} does not say how text is split before its tokens are looked up: name the "
            f"pattern with --pattern {', '.join(PATTERNS)} or a regular expression (gpt2 for the "
            "tokenizers that 'llmc tokenize' trains)"
        )
    if plain is not None and PATTERNS.get(pattern, pattern) == PATTERNS["gpt2"]:
        return plain
    end = {ENDOFTEXT: max(ranks.values()) + 1}
    try:
        return assembled("tiktoken", ranks, PATTERNS.get(pattern, pattern), end)
    except ValueError as error:
        raise Usage(f"--pattern {pattern} is not a regular expression: {error}") from error


def decoding_tokenizer(spec: str) -> Tokenizer:
    """Return the tokenizer that ``spec`` names, to turn ids into text, which needs no pattern.

    Raises:
        Usage, BadData: as :func:`llmc.tokens.tokenizer.load_tokenizer`.
    """
    try:
        return load_tokenizer(spec)
    except UnknownPattern:
        return load_tokenizer(spec, pattern="gpt2")


def _by_record(path: Path) -> Tokenizer | None:
    """Return tokens with the pattern that the record beside them holds; None if none does."""
    for place in (path.with_name(RECORD_FILE), path.with_suffix(RECORD_SUFFIX)):
        record = read_record(place) if _is_record(place) else None
        if record is not None and record["file"] == path.name and "pattern" in record:
            break
    else:
        return None
    ranks = read_ranks(path, gaps=True)
    try:
        return assembled(record["name"], ranks, record["pattern"], record["special_tokens"])
    except ValueError as error:
        raise BadData(
            f"{path} and {place.name} beside it make no tokenizer ({error}): "
            "run 'llmc tokenize PATH' again"
        ) from error


def _is_vouched_for(path: Path, plain: Tokenizer) -> bool:
    """Tell whether a manifest, a record or a checkpoint beside a file names its fingerprint."""
    if plain.name != "bpe":  # GPT-2's tokens, or the bytes
        return True
    for name in ("manifest.json", RECORD_FILE):
        with suppress(OSError, ValueError):
            if plain.fingerprint.encode() in read_limited(path.with_name(name)):
                return True
    with suppress(OSError), path.with_suffix(".bin").open("rb") as file:
        return bytes.fromhex(plain.fingerprint) in file.read(HEAD_BYTES)
    return False


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
    return {"name", "fingerprint", "file"} <= object_in(path).keys()


def _of_json(path: Path) -> Tokenizer:
    with broken_explained(f"the tokenizer {path}", _ADVICE):
        table: Any = read_json(path)
        if not isinstance(table, Mapping):
            raise TypeError("it is not a JSON object")
        if MARK in table:
            return from_document(table)
    if _is_record(path):
        recorded = tokenizer_in(path)
        assert recorded is not None
        return recorded
    if "model" not in table:
        return _holdable(path, tokenizer_json.read_beside(path))
    return _holdable(path, tokenizer_json.read_file(path))


def _holdable(path: Path, found: Tokenizer | tokenizer_json.Unheld) -> Tokenizer:
    if isinstance(found, tokenizer_json.Unheld):
        raise _not_held(path, found.reason)
    return found


def _not_held(path: Path, reason: str) -> BadData:
    return BadData(
        f"llmc cannot hold the tokenizer {path}: {reason}; encode the text with the program it "
        "belongs to and bring the tokens ('llmc tokenize FILE --dtype uint16'), or choose another "
        "--tokenizer"
    )
