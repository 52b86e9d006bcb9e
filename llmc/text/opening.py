"""Open inputs (paths, patterns, addresses, ``-`` for stdin) as parts of text."""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
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
class Opened:
    """The text of one input.

    Attributes:
        name: the name of a dataset made of it.
        parts: its text, in order.
        record: its origin, for the manifest.
        skipped: number of files skipped because they are empty or not UTF-8 text.
        notes: the choices that were made by default.
        val_parts: the validation text, if the input has its own.
    """

    name: str
    parts: tuple[Part, ...]
    record: dict[str, Any]
    skipped: int = 0
    notes: tuple[str, ...] = ()
    val_parts: tuple[Part, ...] | None = None


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


def open_file(path: Path, reading: Reading, origin: dict[str, Any], name: str) -> Opened:
    """Open one file that a person named.

    Raises:
        BadData: the file cannot be read, or is not what its name says.
        Usage: the options do not fit the kind of file.
    """
    return _opened(path, kind_of(path.name, reading), reading, origin=origin, name=name)


def open_files(
    files: Iterable[Path], reading: Reading, origin: dict[str, Any], name: str, root: Path
) -> Opened:
    """Open many files; empty ones and those that are not text are skipped.

    Args:
        files: the files, in order.
        reading: how to read them.
        origin: where they come from, for the manifest.
        name: the name of a dataset made of them.
        root: the combined hash includes their paths below this folder.

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
    return Opened(name, parts_of(pieces), {**record, **reading.record()}, skipped)


def open_url(url: str, reading: Reading, *, report: Report = SILENT) -> Opened:
    """Open a file on the web; it is downloaded once, into the cache.

    Raises:
        BadData: the download fails, or the file is not what its name says.
        Usage: the options do not fit the kind of file.
    """
    parts = urlsplit(url)
    name = Path(unquote(parts.path)).name or parts.netloc
    kind_of(name, reading)
    folder = cache_dir() / "text" / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / name
    notes: tuple[str, ...]
    if path.is_file():
        notes = (f"{url} was downloaded before: remove {path} to download it again",)
    else:
        try:
            download(url, path, hint=URL_HINT, report=report)
        finally:
            with suppress(OSError):
                folder.rmdir()  # still empty after a failure
        notes = (f"downloaded {url} to {path}",)
    opened = open_file(path, reading, {"url": url}, _stem(name))
    return replace(opened, notes=notes + opened.notes)


def open_stdin(workspace: Workspace, reading: Reading) -> Opened:
    """Open the text from stdin; it is kept in a file in the workspace until llmc ends.

    Raises:
        BadData: it is empty or not text, or the disk is full.
        Usage: the options do not fit.
    """
    kind = kind_of("stdin", reading)
    path = _spooled(workspace.data)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    kind = replace(kind, codec=codec_of_bytes(head))
    return _opened(path, kind, reading, origin={"path": STDIN}, name="stdin", shown="stdin")


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


def _opened(
    path: Path,
    kind: Kind,
    reading: Reading,
    *,
    origin: dict[str, Any],
    name: str,
    shown: str | None = None,
) -> Opened:
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
    return Opened(name, parts_of(pieces), record, notes=notes)


def _is_plain_text(kind: Kind) -> bool:
    return kind.format == "text" and not kind.codec


@cache
def _spooled(folder: Path) -> Path:
    """Write stdin to a file, once, and return its path; the file is removed when llmc ends.

    Raises:
        BadData: the disk is full.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".stdin.", dir=folder)
    except OSError as error:
        raise BadData(f"cannot write to {folder}: {error.strerror or error}") from error
    path = Path(name)
    process = os.getpid()

    def remove() -> None:
        if os.getpid() != process:
            return  # in a forked worker
        path.unlink(missing_ok=True)
        for place in made:
            with suppress(OSError):
                place.rmdir()  # still empty

    atexit.register(remove)
    try:
        with os.fdopen(handle, "wb") as file:
            while chunk := sys.stdin.buffer.read(1 << 20):
                file.write(chunk)
    except OSError as error:
        raise BadData(
            f"cannot write stdin to a file in {folder}: {error.strerror or error}"
        ) from error
    return path
