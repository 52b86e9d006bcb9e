"""A dataset's folder: the manifest, and every file that it names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.manifests import say_recorded
from llmc.check.inspect.reading import Asked, ReadBudget, read_json
from llmc.check.inspect.statistics import TokenCounts
from llmc.check.inspect.tokens import count_tokens, say_counts, say_first, say_layout
from llmc.tokens import manifest as manifests
from llmc.tokens.prepared import FILENAME as PREPARED
from llmc.tokens.tokenizer import Tokenizer


def describe_dataset(folder: Path, asked: Asked) -> Description:
    """Describe the dataset whose manifest lies in ``folder``; compare every file with it.

    Raises:
        OSError: the manifest cannot be read.
    """
    made = Description(folder, "dataset", "dataset")
    fields, problems = manifests.scan_manifest(folder / manifests.FILENAME, manifests.FILENAME)
    for problem in problems:
        made.wrong(safe_text(problem, None))
    if not fields:
        return made
    _say_manifest(made, fields)
    tokenizer = asked.tokenizer
    if tokenizer is None:
        tokenizer = say_recorded(made, folder, fields)
    else:
        made.say("tokenizer", tokenizer.name, f"{tokenizer.name}, as --tokenizer says")
    _say_prepared(made)
    for split in manifests.SPLITS:
        files = [manifests.Shard(**entry) for entry in fields[split]]
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
    """Add the model that ``llmc prepare`` made for the dataset."""
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
    folder: Path,
    split: str,
    files: list[manifests.Shard],
    tokenizer: Tokenizer | None,
    asked: Asked,
) -> Description:
    """Describe the files of one split together; compare each with its entry."""
    made = Description(folder, "split", split)
    made.note("split", split)
    counts = TokenCounts(eot=tokenizer.eot if tokenizer is not None else None)
    rows = []
    there = 0
    for shard in files:
        count, state = _checked(
            made, folder / shard.file, shard, counts, tokenizer=tokenizer, reading=asked.reading
        )
        there += count
        rows.append((shard.file, shard.tokens, state))
    counts.close()
    first, made.facts = made.facts, []
    made.say("tokens", sum(shard.tokens for shard in files))
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
    shard: manifests.Shard,
    counts: TokenCounts,
    *,
    tokenizer: Tokenizer | None,
    reading: ReadBudget,
) -> tuple[int, str]:
    """Count the tokens of one file; return the count and how it compares with its entry."""
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
    layout = say_layout(alone)
    for problem in alone.problems:
        made.wrong(f"{path}: {problem}")
    if layout is None:
        return 0, "broken"
    if not counts.tokens:
        say_first(made, path, layout, tokenizer)
    sha256 = count_tokens(path, layout, counts, reading)
    if layout.there == shard.tokens and sha256 in (shard.sha256, None):
        return layout.there, "verified" if sha256 else "not verified: --full reads all of it"
    if not alone.problems:
        made.wrong(
            f"{path} is not the file its manifest describes ({layout.there:,} tokens, "
            f"{shard.tokens:,} in the manifest, or other ones): run 'llmc tokenize' again"
        )
    return layout.there, "differs"
