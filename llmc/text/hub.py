"""Datasets of the Hugging Face hub: ``hf:owner/name[@revision][:split[:column]]``.

One request to the hub returns a repository's commit, files, sizes and hashes, and the card that
assigns files to splits. Each file is downloaded when it is read, into the hub's own cache. If a
repository has no file that llmc reads, the hub's conversion to parquet (``refs/convert/parquet``)
is used.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from llmc.errors import BadData, Usage
from llmc.fetch.hub import ListedFile, Listing, NoSuchRevision, list_dataset
from llmc.text.files import Stretch
from llmc.text.opening import Source
from llmc.text.parts import Part, Pieces, documents_of, parts_of
from llmc.text.piece import Seen
from llmc.text.reading import RECORDS, Reading, kind_of
from llmc.text.split_names import FORMATS, TRAIN, VALIDATION, format_of, split_of_path

PREFIX = "hf:"
CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class HubName:
    """A parsed name: repository, revision, split (``subset/split`` where needed), column."""

    repo: str
    revision: str | None = None
    split: str | None = None
    column: str | None = None


def parse_name(text: str) -> HubName:
    """Parse ``hf:owner/name[@revision][:split[:column]]``.

    Raises:
        Usage: the name has another form.
    """
    place, *rest = text.removeprefix(PREFIX).split(":")
    repo, _, revision = place.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or len(rest) > 2 or text.endswith((":", "@")):
        raise Usage(f"'{text}' is not hf:owner/name[@revision][:split[:column]]")
    split, column = [*rest, "", ""][:2]
    return HubName(repo, revision or None, split or None, column or None)


def open_hub(text: str, reading: Reading) -> Source:
    """Open a dataset of the hub; only the list of its files is requested.

    Raises:
        Usage: the name has another form, or the column is named twice.
        BadData: the hub cannot be reached or refuses, or has no such split or no text.
    """
    name = parse_name(text)
    if name.column and reading.fields not in ((), (name.column,)):
        raise Usage(f"{text} names the column '{name.column}', --field another: leave one out")
    reading = replace(reading, field=name.column or reading.field)
    splits = _splits(list_dataset(name.repo, name.revision), reading)
    origin = f"hf:{name.repo}"
    if not splits and name.revision is None:
        with suppress(NoSuchRevision):
            splits = _converted(list_dataset(name.repo, CONVERTED), reading)
    if not splits:
        raise BadData(f"{origin} has no parquet, JSON or text files that are wanted: name another")
    chosen = _chosen(name, splits)
    files = splits[chosen]
    subset = chosen.rpartition("/")[0]
    own = f"{subset}/{VALIDATION}".removeprefix("/")
    val = splits.get(own, []) if name.split is None and chosen.endswith(TRAIN) else []
    record = {
        "hub": name.repo,
        "revision": files[0].commit,
        "split": chosen,
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "sha256": _combined(files),
        **reading.record(),
    }
    if val:
        record["validation"] = {"files": len(val), "sha256": _combined(val)}
    notes = [f"{origin}: split {chosen}, {len(files)} files at commit {files[0].commit[:12]}"]
    if len(splits) > 1 and name.split is None:
        others = ", ".join(sorted(set(splits) - {chosen}))
        notes.append(f"other splits: {others} (name one: {origin}:{chosen})")
    seen = Seen()
    return Source(
        name=name.repo.partition("/")[2],
        parts=_parts(files, reading, seen),
        records=(record,),
        notes=tuple(notes),
        val_parts=_parts(val, reading, seen) or None,
        kinds=frozenset(kind_of(file.path, reading) for file in files),
        of_many=True,
        seen=(seen,),
    )


def _parts(files: list[ListedFile], reading: Reading, seen: Seen) -> tuple[Part, ...]:
    # The files of a split are alike: the first tells what they hold, and others are not downloaded.
    return tuple(
        Part(
            _shown(file),
            file.bytes,
            partial(_documents, file, reading, seen),
            tells_records=file is files[0] and kind_of(file.path, reading).format in RECORDS,
        )
        for file in files
    )


def _documents(file: ListedFile, reading: Reading, seen: Seen) -> Iterator[str]:
    """Download a file unless it is in the hub's cache, and yield its documents."""
    path = file.download()
    stretch = Stretch(_shown(file), path, 0, path.stat().st_size)
    kind = kind_of(PurePosixPath(file.path).name, reading)
    made = Pieces(seen=seen)
    made.add(stretch, kind, reading)
    yield from documents_of(parts_of(made.pieces))


def _shown(file: ListedFile) -> str:
    return f"hf:{file.repo}/{file.path}"


def _splits(listing: Listing, reading: Reading) -> dict[str, list[ListedFile]]:
    """Return the files that can be read by split: ``train``, or ``subset/train``.

    The card decides; without one, the names of files and folders do.
    """
    files = _of_one_format([file for file in listing.files if reading.wants(file.path)])
    found: dict[str, list[ListedFile]] = defaultdict(list)
    for split, patterns in declared_splits(listing.configs):
        for file in files:
            if any(fits(file.path, pattern) for pattern in patterns):
                found[split].append(file)
    for file in files if not found else ():
        found[split_of_path(file.path)].append(file)
    return found


def _converted(listing: Listing, reading: Reading) -> dict[str, list[ListedFile]]:
    """Return the hub's own parquet files by split; they lie at ``subset/split/0000.parquet``."""
    found: dict[str, list[ListedFile]] = defaultdict(list)
    for file in listing.files:
        parts = PurePosixPath(file.path).parts
        if len(parts) == 3 and file.path.endswith(".parquet") and reading.wants(file.path):
            found[f"{parts[0]}/{parts[1].removeprefix('partial-')}"].append(file)
    subsets = {split.partition("/")[0] for split in found}
    if len(subsets) == 1:
        return {split.partition("/")[2]: files for split, files in found.items()}
    return found


def _of_one_format(files: list[ListedFile]) -> list[ListedFile]:
    by_format = ([file for file in files if format_of(file.path) == form] for form in FORMATS)
    return next(filter(None, by_format), [])


def declared_splits(configs: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the splits of a card, each with its patterns of files.

    A card's ``data_files`` is a pattern, a list of patterns, or a list of splits with theirs.
    """
    for config in configs:
        given = config.get("data_files") or []
        entries = given if isinstance(given, list) else [given]
        prefix = f"{config.get('config_name')}/" if len(configs) > 1 else ""
        for entry in entries:
            if isinstance(entry, dict):
                split, paths = str(entry.get("split") or TRAIN), entry.get("path") or []
            else:
                split, paths = TRAIN, entry
            yield prefix + split, [paths] if isinstance(paths, str) else [str(p) for p in paths]


def fits(path: str, pattern: str) -> bool:
    """Match as the hub does: ``**`` crosses folders; a folder stands for what is in it."""
    pattern = pattern.removeprefix("./")
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern.rstrip('/')}/*")


def _chosen(name: HubName, splits: dict[str, list[ListedFile]]) -> str:
    """Choose the split: the one named, else train, else the only one."""
    there = ", ".join(splits)
    if name.split is not None:
        if name.split not in splits:
            raise BadData(f"hf:{name.repo} has no split '{name.split}': name one of {there}")
        return name.split
    candidates = [split for split in splits if split.rpartition("/")[2] == TRAIN] or list(splits)
    if len(candidates) > 1:
        raise BadData(
            f"hf:{name.repo} has several texts: name one, such as "
            f"hf:{name.repo}:{candidates[0]}, of {there}"
        )
    return candidates[0]


def _combined(files: list[ListedFile]) -> str:
    lines = "".join(f"{file.identity}  {file.path}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
