"""Open inputs (paths, patterns, addresses, ``-`` for stdin) as parts of text."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llmc.addresses import without_secrets
from llmc.errors import BadData
from llmc.fetch.download import download
from llmc.kinds import HEAD_BYTES, codec_of_bytes
from llmc.paths import Workspace, cache_dir
from llmc.report import SILENT, Report
from llmc.text.documents import AT_ENDOFTEXT, ENDOFTEXT
from llmc.text.encodings import AUTO
from llmc.text.examine import LeftOut, examine, left_out, sentence_of
from llmc.text.fields import DEFAULT_FIELD
from llmc.text.files import Stretch
from llmc.text.parts import Part, Pieces, parts_of
from llmc.text.piece import Seen
from llmc.text.reading import ARCHIVES, Kind, Reading, kind_of
from llmc.text.split_names import TRAIN
from llmc.text.tables import CONVERSATION
from llmc.text.utf8 import LEAVE, UTF8, Unreadable

STDIN = "-"
URL_HINT = "check the address, or save the file yourself and name it"


@dataclass(frozen=True)
class Source:
    """Text ready to be tokenized."""

    name: str  # of the dataset and of its folder under data/
    parts: tuple[Part, ...]  # the text, in order
    records: tuple[dict[str, Any], ...]  # the origin of the text, for the manifest
    val_parts: tuple[Part, ...] | None = None  # the validation text, if the dataset has its own
    val_tokens: int | None = None  # the default validation split; None for VAL_FRACTION
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)  # what is not read, and why
    notes: tuple[str, ...] = field(default=(), compare=False)  # sentences on choices by default
    kinds: frozenset[Kind] = field(default=frozenset(), compare=False)  # of the files
    of_many: bool = field(default=False, compare=False)  # include and exclude chose among files
    seen: tuple[Seen, ...] = field(default=(), compare=False)  # fills while the text is read
    # A combined hash of files -> the one that older versions recorded of them.
    older: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def total_bytes(self) -> int | None:
        """The size of all parts; None where that of one is not known."""
        return _bytes_of((*self.parts, *(self.val_parts or ())))

    @property
    def train_bytes(self) -> int | None:
        """The size of the text without a validation text of its own; None: not known."""
        return _bytes_of(self.parts)

    @property
    def holds_as_stored(self) -> bool:
        """Whether the size of the files is that of their text, or is not worth a download."""
        of_hub = any("hub" in record for record in self.records)
        return of_hub or all(kind == Kind("text", boundary=kind.boundary) for kind in self.kinds)

    @property
    def line_ends_changed(self) -> bool:
        """Whether CR LF or CR became LF in what was read so far."""
        return any(seen.line_ends for seen in self.seen)

    @property
    def lacks_separator(self) -> bool:
        """Whether what separates documents was looked for in what was read so far, in vain."""
        is_split = any(seen.is_split for seen in self.seen)
        return is_split and not any(seen.separator for seen in self.seen)


def _bytes_of(parts: Sequence[Part]) -> int | None:
    sizes = [part.bytes for part in parts]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def open_file(
    path: Path,
    kind: Kind,
    reading: Reading,
    origin: dict[str, Any],
    name: str,
    *,
    shown: str | None = None,
) -> Source:
    """Open one file, which messages call ``shown``, by default its path.

    ``origin`` says in the manifest where it comes from; a dataset made of it is called ``name``.

    Raises:
        BadData: it cannot be read, is empty, or is not what its name says.
    """
    shown = shown or str(path)
    found = examine(path, kind, reading, name=shown)
    if not found.size:
        raise BadData(f"'{name}' is too little text: {shown} is empty")
    if found.fault is not None:
        raise found.fault
    made = Pieces()
    named = replace(kind, encoding=found.encoding)
    made.add(Stretch(shown, path, 0, found.size), named, reading, head=found.head)
    record = {**origin, "bytes": found.size, "sha256": found.sha256, **reading.record()}
    record |= {"split": TRAIN} if made.notes else {}
    notes = tuple(made.notes)
    (used, *_) = made.pieces
    if kind.boundary is None and used.kind.boundary == AT_ENDOFTEXT:
        record["documents"] = AT_ENDOFTEXT.name
        notes += (
            f"{shown} is split into documents at its lines of {ENDOFTEXT} "
            "(--documents file makes it one document)",
        )
    if (column := used.kind.field) not in (None, CONVERSATION, DEFAULT_FIELD, *reading.fields):
        record["field"] = column
        notes += (f"{shown}: the text is in the column '{column}' (--field names another)",)
    if reading.encoding == AUTO and used.kind.encoding != UTF8:
        record["encoding"] = used.kind.encoding
        notes += (f"{shown} is read as {used.kind.encoding} (--encoding names another)",)
    return _source(made, name, record, notes, of_many=kind.format in ARCHIVES)


def _source(
    made: Pieces, name: str, record: dict[str, Any], notes: tuple[str, ...], *, of_many: bool
) -> Source:
    return Source(
        name,
        parts_of(made.pieces),
        (record,),
        parts_of(made.validation) or None,
        notes=notes,
        left_out=tuple(made.left_out),
        kinds=frozenset(made.kinds),
        of_many=of_many,
        seen=(made.seen,),
    )


def open_files(
    files: Iterable[Path],
    reading: Reading,
    origin: dict[str, Any],
    name: str,
    *,
    root: Path,
    without: Iterable[LeftOut] = (),
) -> Source:
    """Open many files; those that are not text are left out, and named.

    ``origin`` and ``name`` are as for :func:`open_file`; ``without`` are files that are left out
    already. The combined hash includes the files' paths below the folder ``root``, so that it does
    not depend on how the folder was spelled.

    Raises:
        BadData: none is text, or the records of a file lack the field.
        Usage: the options do not fit a kind of file.
    """
    combined, older = hashlib.sha256(), hashlib.sha256()
    made = Pieces(left_out=list(without))
    count = total = 0
    for path in files:
        before = len(made.left_out)
        kind = kind_of(path.name, reading, outright=False)
        try:
            found = examine(path, kind, reading)
            if not found.size:
                raise Unreadable(str(path), "is empty", LEAVE)
            if found.fault is not None:
                raise found.fault
        except Unreadable as error:
            made.left_out.append(left_out(str(path), error))
            continue
        stretch = Stretch(str(path), path, 0, found.size)
        kind = replace(kind, encoding=found.encoding)
        made.add(stretch, kind, reading, head=found.head, is_optional=True)
        if any(each.name == str(path) for each in made.left_out[before:]):
            continue
        for digest, start in ((combined, root), (older, Path.cwd())):
            shown = path.relative_to(start) if path.is_relative_to(start) else path
            # A name need not be UTF-8.
            digest.update(found.sha256.encode() + b"  " + os.fsencode(shown.as_posix()) + b"\n")
        count, total = count + 1, total + found.size
    if not count:
        many = f"none of the {len(made.left_out):,} files of '{name}' can be read"
        raise BadData(f"{many}: {sentence_of(made.left_out)}")
    record = {**origin, "files": count, "bytes": total, "sha256": combined.hexdigest()}
    record |= {"split": TRAIN} if made.notes else {}
    notes = (*made.notes, *_notes_on_json(made, reading))
    opened = _source(made, name, record | reading.record(), notes, of_many=True)
    return replace(opened, older={combined.hexdigest(): older.hexdigest()})


def _notes_on_json(made: Pieces, reading: Reading) -> list[str]:
    """Say that files of JSON among many are read as they are, unless that was asked for."""
    names = [
        piece.stretch.name
        for piece in made.pieces
        if piece.kind.format == "text" and kind_of(piece.stretch.name, Reading()).format == "json"
    ]
    if not names or reading.documents is not None:
        return []
    which = f"{names[0]} and {len(names) - 1:,} more are" if len(names) > 1 else f"{names[0]} is"
    return [f"{which} read as plain text (--documents record reads the records of JSON)"]


def open_url(url: str, reading: Reading, *, report: Report = SILENT) -> Source:
    """Open a file on the web; it is downloaded once, into the cache.

    Raises:
        BadData: the download fails, or the file is not what its name says.
        Usage: the options do not fit the kind of file.
    """
    parts = urlsplit(url)
    name = Path(unquote(parts.path)).name or parts.netloc.rpartition("@")[2]
    kind = kind_of(name, reading)
    folder = cache_dir() / "text" / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / name
    shown = without_secrets(url)
    note = f"{shown} was downloaded before: remove {path} to download it again"
    if not path.is_file():
        try:
            download(url, path, hint=URL_HINT, report=report)
        finally:
            with suppress(OSError):
                folder.rmdir()  # still empty after a failure
        note = f"downloaded {shown} to {path}"
    opened = open_file(path, kind, reading, {"url": shown}, _stem(name))
    return replace(opened, notes=(note, *opened.notes))


def open_stdin(workspace: Workspace, reading: Reading) -> Source:
    """Open the text from stdin; it is kept in a file in the workspace until llmc ends.

    Raises:
        BadData: it is empty or not text, or the disk is full.
        Usage: the options do not fit.
    """
    kind = kind_of("stdin", reading)
    path = _spooled(workspace.data)
    with path.open("rb") as file:
        kind = replace(kind, codec=codec_of_bytes(file.read(HEAD_BYTES)))
    return open_file(path, kind, reading, {"path": STDIN}, "stdin", shown="stdin")


def name_of(first: Path, *, is_pattern: bool) -> str:
    """Return the name of a dataset made of a file, folder or pattern."""
    place = (first.parent if is_pattern else first).resolve()
    name = (_stem(place.name) if place.is_file() else place.name) or "text"
    return re.sub("[\ud800-\udfff]", "_", name)  # of a file name that is not UTF-8


def _stem(name: str) -> str:
    """Return a file's name without the suffixes of format and compression."""
    stem = Path(name).stem
    kind = kind_of(name, Reading())
    if (kind.codec and Path(stem).suffix) or (kind.format == "tar" and stem.endswith(".tar")):
        stem = Path(stem).stem
    return stem or "text"


@cache
def _spooled(folder: Path) -> Path:
    """Write stdin to a file, once, and return its path; the file is removed when llmc ends."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    process = os.getpid()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".stdin.", dir=folder)

        def remove() -> None:
            if os.getpid() != process:
                return  # in a forked worker
            Path(name).unlink(missing_ok=True)
            for place in made:
                with suppress(OSError):
                    place.rmdir()  # still empty

        atexit.register(remove)
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    except OSError as error:
        reason = error.strerror or error
        raise BadData(f"cannot write stdin to a file in {folder}: {reason}") from error
    return Path(name)
