"""Open text by name or place: input -> source -> parts -> a stream of documents.

In a dataset an ``<|endoftext|>`` token separates documents. Registered names are
``tinyshakespeare`` and ``tinystories``, which ``llmc fetch`` downloads into the workspace;
``stdlib``, the sources of the running Python's standard library, and ``docstrings``, conversations
made of its docstrings. Anything else is a path, a pattern
or an address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from llmc.errors import BadData, Usage
from llmc.fetch import registry
from llmc.fetch.network import is_url
from llmc.fetch.registry import DOCSTRINGS, NAMES, STDLIB
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.setting import nearest
from llmc.text import opening
from llmc.text.docstrings import SOURCE_BYTES, docstring_documents, module_name
from llmc.text.documents import AT_ENDOFTEXT, BLANK_LINE, FILE, Boundary
from llmc.text.examine import LeftOut
from llmc.text.folders import files_named, start_of
from llmc.text.hub import PREFIX as HUB
from llmc.text.hub import open_hub
from llmc.text.opening import STDIN, Source, open_file, open_files
from llmc.text.parts import Part, documents_of
from llmc.text.reading import KEEP, PACKED, RECORDS, TEXTUAL, Kind, Reading, kind_of
from llmc.text.split_names import TRAIN, VALIDATION
from llmc.text.splits import Splits, note_on_names, splits_of

__all__ = ["AS_USUAL", "Part", "Reading", "Source", "documents_of", "open_source"]

AS_USUAL = Reading()
AS_PUBLISHED = Reading(newlines=KEEP)  # of the registered datasets: as llm.c reads them
VAL_FRACTION = 0.1


# llm.c's split: the first 32,768 tokens validate, the rest trains.
TINYSHAKESPEARE_VAL_TOKENS = 32768

# Not read: installed packages, tests, generated tables of character sets, the manual as a string.
STDLIB_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    | {"encodings", "pydoc_data"}
)


def open_source(
    workspace: Workspace, inputs: list[str], reading: Reading = AS_USUAL, *, report: Report = SILENT
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
    if "" in inputs:
        raise Usage("an input is empty: name a dataset, a file or a folder ('.' is this one)")
    if named := [name for name in inputs if name in NAMES]:
        if len(inputs) > 1:
            raise Usage(
                f"'{named[0]}' is a dataset: tokenize it alone, other text with another --out"
            )
        if reading != AS_USUAL:
            flags = [*reading.record(), *(["any-ratio"] if reading.any_ratio else [])]
            options = ", ".join(f"--{flag}" for flag in flags)
            raise Usage(f"'{named[0]}' is always read in the same way: leave out {options}")
    if inputs == [STDLIB]:
        return _stdlib_source()
    if inputs == [DOCSTRINGS]:
        return _docstrings_source()
    if inputs == [registry.TINYSHAKESPEARE.name]:
        return _tinyshakespeare_source(workspace)
    if inputs == [registry.TINYSTORIES.name]:
        return _tinystories_source(workspace)
    return _named_source(workspace, inputs, reading, report)


def _stdlib_source() -> Source:
    folder = registry.stdlib_folder()
    found = [
        path
        for path in folder.rglob("*.py")
        if STDLIB_SKIPPED.isdisjoint(path.relative_to(folder).parts)
    ]

    def shuffled(path: Path) -> bytes:
        # Sorting by hash mixes the modules, gives the same order everywhere, and hardly changes
        # when Python gains or loses a module.
        return hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()

    whole = Reading(documents=FILE.name, newlines=KEEP)
    files = sorted(found, key=shuffled)
    opened = open_files(files, whole, {"name": STDLIB}, STDLIB, root=folder)
    kept = whole.record()
    record = {key: value for key, value in opened.records[0].items() if key not in kept}
    return replace(opened, records=(record,))


def _docstrings_source() -> Source:
    """Return the conversations of the standard library's docstrings, a part for each module."""
    library, folder = _stdlib_source(), registry.stdlib_folder()
    parts = []
    for part in library.parts:
        path = Path(part.name)
        if (module := module_name(PurePosixPath(path.relative_to(folder)))) is not None:
            read = partial(docstring_documents, path, module)
            size = (part.bytes or 0) // SOURCE_BYTES
            parts.append(Part(f"{DOCSTRINGS}:{module}", size, read, tells_records=True))
    records = ({**library.records[0], "name": DOCSTRINGS},)
    return Source(DOCSTRINGS, tuple(parts), records, kinds=frozenset({Kind("jsonl")}))


def _fetched(path: Path, boundary: Boundary, dataset: str) -> Source:
    """Open a file that 'llmc fetch' downloaded."""
    kind = Kind("text", boundary=boundary)
    try:
        made = open_file(path, kind, AS_PUBLISHED, {"name": path.name}, dataset)
    except BadData as error:
        raise BadData(f"{error} - or fetch it again with --force") from error
    record = {key: value for key, value in made.records[0].items() if key != "newlines"}
    return replace(made, records=(record,))


def _tinyshakespeare_source(workspace: Workspace) -> Source:
    (path,) = registry.fetched_files(workspace, registry.TINYSHAKESPEARE)
    source = _fetched(path, BLANK_LINE, registry.TINYSHAKESPEARE.name)
    found = source.records[0]["sha256"]
    if found != registry.TINYSHAKESPEARE.files[0].sha256:
        raise BadData(
            f"{workspace.shown(path)} is not tinyshakespeare (its SHA-256 is {found}): "
            "run 'llmc fetch tinyshakespeare --force'"
        )
    return replace(source, val_tokens=TINYSHAKESPEARE_VAL_TOKENS)


def _tinystories_source(workspace: Workspace) -> Source:
    train, val = (
        _fetched(path, AT_ENDOFTEXT, registry.TINYSTORIES.name)
        for path in registry.fetched_files(workspace, registry.TINYSTORIES)
    )
    return replace(train, val_parts=val.parts, records=train.records + val.records)


def _named_source(
    workspace: Workspace, inputs: list[str], reading: Reading, report: Report
) -> Source:
    """Return the text of paths, patterns, addresses, hub datasets and stdin, in the given order.

    A file that is named twice is read once.
    """
    if not inputs:
        raise Usage("name a dataset, or files, folders or patterns of text")
    seen: set[Path] = set()
    opened: list[Source] = []
    for text in dict.fromkeys(inputs):
        if text == STDIN:
            opened.append(opening.open_stdin(workspace, reading))
        elif is_url(text):
            opened.append(opening.open_url(text, reading, report=report))
        elif text.startswith(HUB):
            opened.append(open_hub(text, reading))
        else:
            several = len(inputs) > 1
            opened += _opened_path(workspace, text, reading, seen, is_one_of_many=several)
    _check_options(reading, inputs, opened)
    first, *others = opened
    own_val = [part for each in opened for part in each.val_parts or ()]
    return Source(
        name=f"{first.name}-and-{len(others)}-more" if others else first.name,
        parts=tuple(part for each in opened for part in each.parts),
        records=tuple(record for each in opened for record in each.records),
        val_parts=tuple(own_val) or None,
        left_out=tuple(file for each in opened for file in each.left_out),
        notes=tuple(note for each in opened for note in each.notes),
        kinds=frozenset().union(*(each.kinds for each in opened)),
        seen=tuple(seen for each in opened for seen in each.seen),
        older={new: old for each in opened for new, old in each.older.items()},
    )


def _check_options(reading: Reading, inputs: list[str], opened: list[Source]) -> None:
    """Refuse options that change nothing about these inputs."""
    formats = {kind.format for each in opened for kind in each.kinds}
    shown = ", ".join(inputs)
    if (reading.include or reading.exclude) and not any(each.of_many for each in opened):
        flag = "--include" if reading.include else "--exclude"
        raise Usage(
            f"{flag} chooses among the files of a folder, a pattern or an archive, and {shown} "
            "is none: leave it out"
        )
    if reading.field and not formats & RECORDS:
        raise Usage(f"--field names a field of records, and {shown} holds none: leave it out")
    packed = any(kind.codec or kind.format in PACKED for each in opened for kind in each.kinds)
    if reading.any_ratio and not packed and not any(each.of_many for each in opened):
        raise Usage(f"--any-ratio is for compressed files, and {shown} is none: leave it out")
    if reading.encoding and not formats & TEXTUAL:
        raise Usage(f"--encoding is for text, and {shown} holds none: leave it out")


def _opened_path(
    workspace: Workspace, text: str, reading: Reading, seen: set[Path], *, is_one_of_many: bool
) -> list[Source]:
    """Return a file, folder or pattern without the files in ``seen``; nothing if none is left.

    A single file must be text; of several, those that are not text are left out.

    Raises:
        Usage: nothing has that name.
        BadData: there is no text.
    """
    found = files_named(text, reading)
    if found is None:
        raise Usage(f"no dataset, file or folder '{text}'{_advice(text, workspace)}")
    path = Path(text)
    name = opening.name_of(path if path.exists() else found.files[0], is_pattern=not path.exists())
    places = [file.resolve() for file in found.files] if is_one_of_many else found.files
    files = [file for file, place in zip(found.files, places, strict=True) if place not in seen]
    seen.update(places)
    if not files:
        return []
    if path.is_dir() and (splits := splits_of(path, files)) is not None:
        return [_opened_splits(path, name, splits, found.left_out, reading)]
    notes = note_on_names(path, files) if path.is_dir() else ()
    if len(files) == 1:
        file = files[0]
        origin = {"path": str(file.resolve())}
        kind = kind_of(file.name, reading)
        one = open_file(file, kind, reading, origin, name)
        left_out = (*found.left_out, *one.left_out)
        return [replace(one, left_out=left_out, of_many=one.of_many or file != path)]
    where = path.resolve() if path.exists() else path.absolute()
    origin, root = {"path": str(where)}, path if path.is_dir() else start_of(text)
    many = open_files(files, reading, origin, name, root=root, without=found.left_out)
    return [replace(many, notes=(*many.notes, *notes))]


def _advice(text: str, workspace: Workspace) -> str:
    """Return what to say about a name that nothing has: a dataset is named by its folder."""
    own = workspace.data / text
    if text == Path(text).name and own.is_dir():
        return f"; there is a dataset in {workspace.shown(own)}: name that folder"
    return nearest(text, list(NAMES))


def _opened_splits(
    folder: Path, name: str, splits: Splits, left_out: Sequence[LeftOut], reading: Reading
) -> Source:
    """Return the training text of a dataset's repository, with its validation text if any."""
    origin = {"path": str(folder.resolve()), "split": TRAIN}
    without = (*left_out, *splits.left_out)
    train = open_files(splits.train, reading, origin, name, root=folder, without=without)
    said = f"{folder}: split {TRAIN}, {len(splits.train)} files"
    if not splits.validation:
        return replace(train, notes=(said,))
    val = open_files(splits.validation, reading, {}, name, root=folder)
    own = {key: val.records[0][key] for key in ("files", "bytes", "sha256")}
    return replace(
        train,
        records=({**train.records[0], VALIDATION: own},),
        val_parts=(*val.parts, *(val.val_parts or ()), *(train.val_parts or ())),
        left_out=(*train.left_out, *val.left_out),
        notes=(f"{said}; split {VALIDATION}, {len(splits.validation)} files",),
        kinds=train.kinds | val.kinds,
        seen=(*train.seen, *val.seen),
        older={**train.older, **val.older},
    )
