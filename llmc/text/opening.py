"""What a person names as text - paths, patterns, addresses, ``-``, ``hf:…`` - as parts to read."""

from __future__ import annotations

import atexit
import glob
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
from llmc.paths import Workspace, cache_dir
from llmc.report import SILENT, Report
from llmc.text.documents import AT_ENDOFTEXT, ENDOFTEXT
from llmc.text.files import Stretch, examine
from llmc.text.parts import Part, Piece, parts_of, pieces_of
from llmc.text.reading import Kind, Reading, kind_of

STDIN = "-"
URL_HINT = "check the address, or save the file yourself and name it"


@dataclass(frozen=True)
class Opened:
    """What one input holds.

    Attributes:
        name: what a dataset of it is called.
        parts: its text, in order.
        record: what the manifest says about its origin.
        skipped: files passed over because they are empty or not UTF-8 text.
        notes: what was chosen where nothing was asked for.
        val_parts: the text to validate on, where the input has one of its own.
    """

    name: str
    parts: tuple[Part, ...]
    record: dict[str, Any]
    skipped: int = 0
    notes: tuple[str, ...] = ()
    val_parts: tuple[Part, ...] | None = None


def files_named(text: str, reading: Reading) -> list[Path] | None:
    """Return the files that a path or pattern names, folders' sorted; None: there is no such thing.

    Raises:
        BadData: a folder or pattern that names no file.
    """
    path = Path(text)
    if path.is_dir():
        found = sorted(_files_beneath(path, reading))
        if not found and (reading.include or reading.exclude):
            raise BadData(f"there are no files in {text} that --include and --exclude leave")
    elif path.is_file():
        found = [path]
    elif any(character in text for character in "*?["):
        # Path.glob cannot take an absolute pattern.
        names = sorted(glob.glob(text, recursive=True))  # noqa: PTH207
        found = [Path(name) for name in names if Path(name).is_file()]
    else:
        return None
    if not found:
        raise BadData(f"there are no files in {text}: name a file or folder that holds text")
    return found


def _files_beneath(folder: Path, reading: Reading) -> Iterator[Path]:
    """Yield the wanted files beneath a folder; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        inside = here.relative_to(folder).as_posix()
        folders[:] = [name for name in folders if reading.enters(f"{inside}/{name}")]
        for name in files:
            if reading.wants(f"{inside}/{name}") and (here / name).is_file():
                yield here / name


def open_file(path: Path, reading: Reading, origin: dict[str, Any], name: str) -> Opened:
    """Open one file that was named outright.

    Raises:
        BadData: it cannot be read, or is not what its name says.
        Usage: the wishes do not fit its kind.
    """
    return _opened(path, kind_of(path.name, reading), reading, origin=origin, name=name)


def open_files(
    files: Iterable[Path], reading: Reading, origin: dict[str, Any], name: str, root: Path
) -> Opened:
    """Open many files, those passed over that are empty or not text.

    Args:
        files: the files, in order.
        reading: how to read them.
        origin: where they come from, for the manifest.
        name: what a dataset of them is called.
        root: their paths below this folder go into the combined hash.

    Raises:
        BadData: one cannot be read, or none is text.
        Usage: the wishes do not fit their kind.
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
        BadData: it cannot be had, or is not what its name says.
        Usage: the wishes do not fit its kind.
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
                folder.rmdir()  # still empty: it failed
        notes = (f"downloaded {url} to {path}",)
    opened = open_file(path, reading, {"url": url}, _stem(name))
    return replace(opened, notes=notes + opened.notes)


def open_stdin(workspace: Workspace, reading: Reading) -> Opened:
    """Open what is piped in. It is kept in a file in the workspace until llmc ends.

    Raises:
        BadData: there is nothing, it is not text, or the disk is full.
        Usage: the wishes do not fit.
    """
    kind = kind_of("stdin", reading)
    path = _spooled(workspace.data)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    kind = replace(kind, codec=codec_of_bytes(head))
    return _opened(path, kind, reading, origin={"path": STDIN}, name="stdin", shown="stdin")


def name_of(first: Path, *, is_pattern: bool) -> str:
    """Return what a dataset of a file, folder or pattern is called."""
    place = (first.parent if is_pattern else first).resolve()
    return (_stem(place.name) if place.is_file() else place.name) or "text"


def _stem(name: str) -> str:
    """Return a file's name without what says how it is packed: ``a.b.jsonl.gz`` is ``a.b``."""
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
            f"documents of {shown}: what its lines of {ENDOFTEXT} separate "
            "(--documents file makes it one)",
        )
    return Opened(name, parts_of(pieces), record, notes=notes)


def _is_plain_text(kind: Kind) -> bool:
    return kind.format == "text" and not kind.codec


@cache
def _spooled(folder: Path) -> Path:
    """Write what stands on stdin to a file, once, and return it; it goes when llmc ends.

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
            return  # a worker that was forked
        path.unlink(missing_ok=True)
        for place in made:
            with suppress(OSError):
                place.rmdir()  # still empty: nothing came of it

    atexit.register(remove)
    try:
        with os.fdopen(handle, "wb") as file:
            while chunk := sys.stdin.buffer.read(1 << 20):
                file.write(chunk)
    except OSError as error:
        raise BadData(
            f"cannot keep what is piped in, in {folder}: {error.strerror or error}"
        ) from error
    return path
