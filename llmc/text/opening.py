"""Open inputs (paths, patterns, addresses, ``-`` for stdin) as parts of text."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llmc.errors import BadData
from llmc.fetch.download import download
from llmc.kinds import HEAD_BYTES, codec_of_bytes
from llmc.paths import Workspace, cache_dir, expanded
from llmc.report import SILENT, Report
from llmc.text.documents import AT_ENDOFTEXT, ENDOFTEXT
from llmc.text.files import Stretch, examine
from llmc.text.parts import Part, Piece, parts_of, pieces_of
from llmc.text.reading import Kind, Reading, kind_of

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
    skipped: int = field(default=0, compare=False)  # files that are empty or not UTF-8 text
    notes: tuple[str, ...] = field(default=(), compare=False)  # sentences on choices by default

    @property
    def total_bytes(self) -> int | None:
        """The size of all parts; None where that of one is not known."""
        sizes = [part.bytes for part in (*self.parts, *(self.val_parts or ()))]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def files_named(text: str, reading: Reading) -> list[Path] | None:
    """Return the files of a path or pattern, those of a folder sorted; None if nothing is there.

    Raises:
        BadData: the folder or pattern has no files.
    """
    path = Path(text)
    if path.is_dir():
        found = sorted(_files_beneath(path, reading))
        if not found and (reading.include or reading.exclude):
            raise BadData(f"there are no files in {text} that --include and --exclude leave")
    else:
        found = [file for file in expanded(text, recursive=True) if file.is_file()]
        if not found and not any(character in text for character in "*?["):
            return None
    if not found:
        raise BadData(f"there are no files in {text}: name a file or folder that holds text")
    return found


def _files_beneath(folder: Path, reading: Reading) -> Iterator[Path]:
    """Yield the files below a folder that are read; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        parent = Path(place)
        inside = parent.relative_to(folder).as_posix()
        folders[:] = [name for name in folders if reading.enters(f"{inside}/{name}")]
        for name in files:
            if reading.wants(f"{inside}/{name}") and (parent / name).is_file():
                yield parent / name


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
    found = examine(path, is_text=_is_plain_text(kind), name=shown)
    if not found.bytes:
        raise BadData(f"'{name}' is too little text: {shown} is empty")
    if found.fault is not None:
        raise found.fault
    pieces = pieces_of(Stretch(shown, path, 0, found.bytes), kind, reading)
    record = {**origin, "bytes": found.bytes, "sha256": found.sha256, **reading.record()}
    notes: tuple[str, ...] = ()
    if kind.boundary is None and pieces[0].kind.boundary == AT_ENDOFTEXT:
        record["documents"] = AT_ENDOFTEXT.name
        notes = (
            f"{shown} is split into documents at its lines of {ENDOFTEXT} "
            "(--documents file makes it one document)",
        )
    return Source(name, parts_of(pieces), (record,), notes=notes)


def open_files(
    files: Iterable[Path], reading: Reading, origin: dict[str, Any], name: str, root: Path
) -> Source:
    """Open many files; empty ones and those that are not text are skipped.

    ``origin`` and ``name`` are as for :func:`open_file`. The combined hash includes the files'
    paths below the folder ``root``.

    Raises:
        BadData: a file cannot be read, or none is text.
        Usage: the options do not fit a kind of file.
    """
    combined = hashlib.sha256()
    pieces: list[Piece] = []
    count = total = skipped = 0
    for path in files:
        kind = kind_of(path.name, reading, outright=False)
        found = examine(path, is_text=_is_plain_text(kind))
        if not found.bytes or found.fault is not None:
            skipped += 1
            continue
        shown = path.relative_to(root) if root.parts else path
        combined.update(f"{found.sha256}  {shown.as_posix()}\n".encode())
        count, total = count + 1, total + found.bytes
        stretch = Stretch(str(path), path, 0, found.bytes)
        pieces += pieces_of(stretch, kind, reading, is_optional=True)
    if not count:
        raise BadData(f"none of the {skipped} files of '{name}' is UTF-8 text: name others")
    record = {**origin, "files": count, "bytes": total, "sha256": combined.hexdigest()}
    return Source(name, parts_of(pieces), ({**record, **reading.record()},), skipped=skipped)


def open_url(url: str, reading: Reading, *, report: Report = SILENT) -> Source:
    """Open a file on the web; it is downloaded once, into the cache.

    Raises:
        BadData: the download fails, or the file is not what its name says.
        Usage: the options do not fit the kind of file.
    """
    parts = urlsplit(url)
    name = Path(unquote(parts.path)).name or parts.netloc
    kind = kind_of(name, reading)
    folder = cache_dir() / "text" / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / name
    note = f"{url} was downloaded before: remove {path} to download it again"
    if not path.is_file():
        try:
            download(url, path, hint=URL_HINT, report=report)
        finally:
            with suppress(OSError):
                folder.rmdir()  # still empty after a failure
        note = f"downloaded {url} to {path}"
    opened = open_file(path, kind, reading, {"url": url}, _stem(name))
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
    return (_stem(place.name) if place.is_file() else place.name) or "text"


def _stem(name: str) -> str:
    """Return a file's name without the suffixes of format and compression."""
    stem = Path(name).stem
    kind = kind_of(name, Reading())
    if (kind.codec and Path(stem).suffix) or (kind.format == "tar" and stem.endswith(".tar")):
        stem = Path(stem).stem
    return stem or "text"


def _is_plain_text(kind: Kind) -> bool:
    return kind.format == "text" and not kind.codec


@cache
def _spooled(folder: Path) -> Path:
    """Write stdin to a file, once, and return its path; the file is removed when llmc ends.

    Raises:
        BadData: the disk is full.
    """
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
