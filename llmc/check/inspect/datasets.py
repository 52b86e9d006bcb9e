"""A dataset's folder: the manifest, and every file that it names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.manifests import Entry, entries, read_json, recorded
from llmc.check.inspect.reading import Asked, Reading
from llmc.check.inspect.statistics import TokenCounts
from llmc.check.inspect.token_files import count_tokens, say_counts, say_first, with_header
from llmc.errors import LlmcError
from llmc.tokens import manifest as manifests
from llmc.tokens.prepared import FILENAME as PREPARED
from llmc.tokens.tokenizer import Tokenizer

SPLITS = ("train", "val")


def describe_dataset(folder: Path, asked: Asked) -> Description:
    """Describe the dataset whose manifest lies in ``folder``; hold every file against it.

    Raises:
        OSError: the manifest cannot be read.
    """
    made = Description(folder, "dataset", "dataset")
    path = folder / manifests.FILENAME
    try:
        fields = read_json(path)
    except ValueError as error:
        made.wrong(f"{path} is broken JSON ({safe_text(str(error))}): run 'llmc tokenize' again")
        return made
    try:
        manifests.load_manifest(folder)
    except (LlmcError, RecursionError) as error:
        made.wrong(safe_text(str(error), None))
    if not isinstance(fields, dict):
        return made
    _say_manifest(made, fields)
    tokenizer = asked.tokenizer
    if tokenizer is None:
        tokenizer = recorded(folder, fields, made)
    else:
        made.say("tokenizer", tokenizer.name, f"{tokenizer.name}, as --tokenizer says")
    _say_prepared(made)
    for split in SPLITS:
        files = entries(fields.get(split))
        if files:
            made.parts.append(_describe_split(folder, split, files, tokenizer, asked))
    if not made.all_problems():
        made.hints.append(f"llmc train --data {shlex.quote(str(folder))}")
    return made


def _say_manifest(made: Description, fields: Mapping[str, Any]) -> None:
    for key in ("dataset", "kind", "format", "created_by"):
        if isinstance(fields.get(key), str | int):
            made.say(key, fields[key])
    if type(text_bytes := fields.get("text_bytes")) is int:
        made.say("text_bytes", text_bytes)
    sources = fields.get("source")
    made.note("source", sources)
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            pairs = [f"{safe_text(str(k), 20)} {safe_text(str(v), 64)}" for k, v in source.items()]
            made.tell("source", ", ".join(pairs))


def _say_prepared(made: Description) -> None:
    """Say which model ``llmc prepare`` left for the dataset."""
    try:
        record = read_json(made.path / PREPARED)
    except FileNotFoundError:
        return
    except ValueError as error:
        made.wrong(f"{PREPARED} is broken JSON ({safe_text(str(error))}): run 'llmc prepare' again")
        return
    if isinstance(record, dict) and isinstance(record.get("model"), str):
        made.say("prepared_model", record["model"])


def _describe_split(
    folder: Path, split: str, files: list[Entry], tokenizer: Tokenizer | None, asked: Asked
) -> Description:
    """Describe the files of one split, together; hold each against its entry."""
    made = Description(folder, "split", split)
    made.note("split", split)
    counts = TokenCounts(eot=tokenizer.eot if tokenizer is not None else None)
    rows = []
    there = 0
    for entry in files:
        count, state = _checked(
            made, folder / entry.file, entry, counts, tokenizer=tokenizer, reading=asked.reading
        )
        there += count
        rows.append((entry.file, entry.tokens, state))
    counts.close()
    first, made.facts = made.facts, []
    made.say("tokens", sum(entry.tokens for entry in files))
    if len(files) == 1:
        made.say("file", files[0].file)
        made.say("checksum", rows[0][2])
    else:
        whole = sum(row[2] == "verified" for row in rows)
        made.say("files", len(files), f"{len(files):,}, {whole:,} of them verified")
        made.table("shards", ("file", ">tokens", "checksum"), rows)
    made.facts += first
    if there:
        say_counts(made, counts, there, tokenizer)
    return made


def _checked(
    made: Description,
    path: Path,
    entry: Entry,
    counts: TokenCounts,
    *,
    tokenizer: Tokenizer | None,
    reading: Reading,
) -> tuple[int, str]:
    """Count one file; return its tokens and how it compares with its entry."""
    try:
        kind = kind_of(path)
    except OSError as error:
        made.wrong(
            f"{path} is gone or cannot be read ({error.strerror}): run 'llmc tokenize' again"
        )
        return 0, "gone"
    if kind != "tokens":
        made.wrong(f"{path} is no token file any more: run 'llmc tokenize' again")
        return 0, "no token file"
    alone = Description(path, "tokens", "")
    layout = with_header(alone)
    for problem in alone.problems:
        made.wrong(f"{path}: {problem}")
    if layout is None:
        return 0, "broken"
    if not counts.tokens:
        say_first(made, layout, tokenizer)
    sha256 = count_tokens(layout, counts, reading)
    if layout.count == entry.tokens and sha256 == entry.sha256:
        return layout.count, "verified"
    if layout.count == entry.tokens and sha256 is None:
        return layout.count, "not verified: --full reads all of it"
    if not alone.problems:
        made.wrong(
            f"{path} is not the file its manifest describes ({layout.count:,} tokens, "
            f"{entry.tokens:,} in the manifest, or other ones): run 'llmc tokenize' again"
        )
    return layout.count, "differs"
