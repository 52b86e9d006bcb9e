"""Open text by name or place: input -> source -> parts -> a stream of documents.

In a dataset an ``<|endoftext|>`` token separates documents. Registered names are
``tinyshakespeare`` and ``tinystories``, which ``llmc fetch`` downloads into the workspace, and
``stdlib``, the sources of the running Python's standard library. Anything else is a path, a pattern
or an address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.config import nearest
from llmc.errors import BadData, Usage
from llmc.fetch.network import is_url
from llmc.fetch.registry import (
    NAMES,
    STDLIB,
    TINYSHAKESPEARE,
    TINYSTORIES,
    fetched_files,
    stdlib_folder,
)
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.text.documents import AT_ENDOFTEXT, BLANK_LINE, FILE, Boundary
from llmc.text.files import Stretch, examine
from llmc.text.hub import PREFIX as HUB
from llmc.text.hub import open_hub
from llmc.text.opening import (
    STDIN,
    Opened,
    files_named,
    name_of,
    open_file,
    open_files,
    open_stdin,
    open_url,
)
from llmc.text.parts import Part, parts_of, pieces_of
from llmc.text.reading import Kind, Reading

__all__ = ["AS_USUAL", "Part", "Reading", "Source", "documents_of", "open_source"]

AS_USUAL = Reading()
VAL_FRACTION = 0.1


# llm.c's split: the first 32,768 tokens validate, the rest trains.
TINYSHAKESPEARE_VAL_TOKENS = 32768

# Not read: installed packages, tests, generated tables of character sets, the manual as a string.
STDLIB_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    | {"encodings", "pydoc_data"}
)


@dataclass(frozen=True)
class Source:
    """Text ready to be tokenized.

    Attributes:
        name: the dataset's name, that of its folder under ``data/``.
        parts: the text, in order.
        records: the origin of the text, for the manifest.
        val_parts: the validation text, if the dataset has its own.
        val_tokens: the default size of the validation split in tokens; None for ``VAL_FRACTION``.
        skipped: number of files skipped because they are empty or not UTF-8 text.
        notes: the choices that were made by default, one sentence each.
    """

    name: str
    parts: tuple[Part, ...]
    records: tuple[dict[str, Any], ...]
    val_parts: tuple[Part, ...] | None = None
    val_tokens: int | None = None
    skipped: int = field(default=0, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def total_bytes(self) -> int | None:
        """The size of all parts; None where that of one is not known."""
        sizes = [part.bytes for part in (*self.parts, *(self.val_parts or ()))]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def documents_of(parts: Iterable[Part]) -> Iterator[str]:
    """Yield the documents of all parts, in order."""
    for part in parts:
        yield from part.read()


def open_source(
    workspace: Workspace,
    inputs: list[str],
    reading: Reading = AS_USUAL,
    *,
    report: Report = SILENT,
) -> Source:
    """Return the text that ``inputs`` name.

    Every local file is read once, to hash it and to check that it is text; the hub provides the
    hashes of its files.

    Args:
        workspace: where fetched datasets lie.
        inputs: one registered name; or files, folders, glob patterns, addresses, ``hf:owner/name``
            and ``-`` for stdin, in any number.
        reading: which files of them, and how they become documents.
        report: shows the progress of downloads.

    Raises:
        Usage: an input is neither a name nor a path, names and paths are mixed, or the options do
            not fit.
        MissingOutput: the dataset has not been fetched.
        BadData: a file cannot be downloaded or read or is not UTF-8, or there is no text.
    """
    if named := [name for name in inputs if name in NAMES]:
        if len(inputs) > 1:
            raise Usage(
                f"'{named[0]}' is a dataset: tokenize it alone, other text with another --out"
            )
        if reading != AS_USUAL:
            options = ", ".join(f"--{option}" for option in reading.record())
            raise Usage(f"'{named[0]}' is always read in the same way: leave out {options}")
    if inputs == [STDLIB]:
        return _stdlib_source()
    if inputs == [TINYSHAKESPEARE.name]:
        return _tinyshakespeare_source(workspace)
    if inputs == [TINYSTORIES.name]:
        return _tinystories_source(workspace)
    return _named_source(workspace, inputs, reading, report)


def _stdlib_source() -> Source:
    folder = stdlib_folder()
    found = [
        path
        for path in folder.rglob("*.py")
        if STDLIB_SKIPPED.isdisjoint(path.relative_to(folder).parts)
    ]

    def shuffled(path: Path) -> bytes:
        # Sorting by hash mixes the modules, gives the same order everywhere, and hardly changes
        # when Python gains or loses a module.
        return hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()

    whole = Reading(documents=FILE.name)
    files = sorted(found, key=shuffled)
    opened = open_files(files, whole, {"name": STDLIB}, STDLIB, folder)
    record = {key: value for key, value in opened.record.items() if key != "documents"}
    return Source(STDLIB, opened.parts, (record,), skipped=opened.skipped)


def _tinyshakespeare_source(workspace: Workspace) -> Source:
    (path,) = fetched_files(workspace, TINYSHAKESPEARE)
    record = _record(path)
    if record["sha256"] != TINYSHAKESPEARE.files[0].sha256:
        raise BadData(
            f"{workspace.shown(path)} is not tinyshakespeare (its SHA-256 is {record['sha256']}): "
            "run 'llmc fetch tinyshakespeare --force'"
        )
    return Source(
        name=TINYSHAKESPEARE.name,
        parts=_parts(path, BLANK_LINE),
        records=(record,),
        val_tokens=TINYSHAKESPEARE_VAL_TOKENS,
    )


def _tinystories_source(workspace: Workspace) -> Source:
    train, val = fetched_files(workspace, TINYSTORIES)
    return Source(
        name=TINYSTORIES.name,
        parts=_parts(train, AT_ENDOFTEXT),
        val_parts=_parts(val, AT_ENDOFTEXT),
        records=(_record(train), _record(val)),
    )


def _parts(path: Path, boundary: Boundary) -> tuple[Part, ...]:
    stretch = Stretch(path.name, path, 0, path.stat().st_size)
    return parts_of(pieces_of(stretch, Kind("text", boundary=boundary), AS_USUAL))


def _record(path: Path) -> dict[str, Any]:
    """Return the name, size and hash of a fetched file.

    Raises:
        BadData: it is not UTF-8 text.
    """
    found = examine(path, is_text=True)
    if found.fault is not None:
        raise BadData(f"{found.fault} - or fetch it again with --force") from found.fault
    return {"name": path.name, "bytes": found.bytes, "sha256": found.sha256}


def _named_source(
    workspace: Workspace, inputs: list[str], reading: Reading, report: Report
) -> Source:
    """Return the text of paths, patterns, addresses, hub datasets and stdin, in the given order.

    A file that is named twice is read once.
    """
    if not inputs:
        raise Usage("name a dataset, or files, folders or patterns of text")
    seen: set[Path] = set()
    opened: list[Opened] = []
    for text in dict.fromkeys(inputs):
        if text == STDIN:
            opened.append(open_stdin(workspace, reading))
        elif is_url(text):
            opened.append(open_url(text, reading, report=report))
        elif text.startswith(HUB):
            opened.append(open_hub(text, reading))
        else:
            found = _open_path(text, reading, seen)
            opened += [found] if found is not None else []
    first, *others = opened
    return Source(
        name=f"{first.name}-and-{len(others)}-more" if others else first.name,
        parts=tuple(part for each in opened for part in each.parts),
        records=tuple(each.record for each in opened),
        val_parts=first.val_parts if not others else None,
        skipped=sum(each.skipped for each in opened),
        notes=tuple(note for each in opened for note in each.notes),
    )


def _open_path(text: str, reading: Reading, seen: set[Path]) -> Opened | None:
    """Open a file, folder or pattern without the files in ``seen``; None if none is left.

    A single file must be text; of several, those that are not text are skipped.

    Raises:
        Usage: nothing has that name.
        BadData: there is no text.
    """
    files = files_named(text, reading)
    if files is None:
        raise Usage(f"no dataset, file or folder '{text}'{nearest(text, list(NAMES))}")
    path = Path(text)
    name = name_of(path if path.exists() else files[0], is_pattern=not path.exists())
    files = [file for file in files if file not in seen]
    seen.update(files)
    if not files:
        return None
    if len(files) == 1:
        return open_file(files[0], reading, {"path": str(files[0].resolve())}, name)
    where = str(path.resolve()) if path.exists() else str(Path(text).absolute())
    return open_files(files, reading, {"path": where}, name, Path())
