"""Split text into pieces that can be read independently, in this process or another.

A :class:`Piece` records where bytes lie and how they become documents. It holds no open file, so it
can be pickled and read again.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import BinaryIO

from llmc.errors import BadData
from llmc.text.archives import tar_members
from llmc.text.documents import FILE, LINE, boundary_of_head, cut, starts
from llmc.text.files import Stretch, chunks_of, opened
from llmc.text.parquet import parquet_documents, parquet_groups
from llmc.text.reading import DEFAULT_FIELD, Kind, Reading, kind_of
from llmc.text.records import json_documents, jsonl_documents
from llmc.text.utf8 import CHUNK, Decoder, NotText

# A large file is split into parts of about this size.
PART_BYTES = 64 << 20

# Parquet needs random access: a streamed file is kept in memory up to this size, and beyond it in
# a temporary file.
SPOOLED_BYTES = 64 << 20


@dataclass(frozen=True)
class Part:
    """A piece of a text that can be read by itself, by another process or on another machine.

    Attributes:
        read: returns a new iterator over its documents; it can be pickled, and gives the same
            documents every time.
        stream: makes an iterator over a single document in chunks, each with whether it begins
            the document; None: the part is not a single document.
    """

    name: str  # in messages
    bytes: int | None  # its stored size, for progress; None if that is not known
    read: Callable[[], Iterator[str]]
    stream: Callable[[], Iterator[tuple[bool, str]]] | None = None

    def texts(self) -> Iterator[str | tuple[bool, str]]:
        """Yield the documents; a single document in chunks, so that memory stays bounded."""
        return self.read() if self.stream is None else self.stream()


def documents_of(parts: Iterable[Part]) -> Iterator[str]:
    """Yield the documents of all parts, in order."""
    for part in parts:
        yield from part.read()


@dataclass(frozen=True)
class Piece:
    """A stretch of a file, and how it becomes documents."""

    stretch: Stretch
    kind: Kind
    reading: Reading
    whole: Stretch  # the file or archive member that it is a stretch of, for line numbers
    is_optional: bool = False  # it is one of many files and is skipped if it is not text
    groups: range | None = None  # the row groups of a parquet file; None: all
    column_bytes: int | None = None  # the size of their text, unpacked

    @property
    def bytes(self) -> int:
        """Its size, for progress."""
        return self.stretch.size if self.column_bytes is None else self.column_bytes

    @property
    def field(self) -> str:
        """The field of a record that holds its text."""
        return self.reading.field or DEFAULT_FIELD

    def lines_before(self) -> int:
        """Count the lines of the file before this stretch."""
        before = replace(self.whole, end=self.stretch.start)
        with opened(before) as stream:
            return sum(chunk.count(b"\n") for chunk in chunks_of(stream, before.name, ""))


def pieces_of(
    stretch: Stretch, kind: Kind, reading: Reading, *, is_optional: bool = False
) -> list[Piece]:
    """Split a file or an archive's member into pieces that can be read in parallel.

    Their documents, one piece after the other, are those of the whole. A compressed file is one
    piece; an uncompressed tar has one or more for each member.

    Raises:
        BadData: it cannot be read, or is not what its name says.
    """
    whole = Piece(stretch, kind, reading, stretch, is_optional)
    # The content of a small file among many is examined when it is read.
    is_small = is_optional and stretch.size <= PART_BYTES and kind.format in ("text", "jsonl")
    is_open = kind.format == "text" and kind.boundary is None
    if is_small or (kind.codec and (is_optional or not is_open)):
        return [whole]
    with opened(stretch) as stream:
        if is_open:
            head = next(chunks_of(stream, stretch.name, kind.codec), b"")
            whole = replace(whole, kind=replace(kind, boundary=boundary_of_head(head)))
        if kind.codec:
            return [whole]
        if kind.format == "tar":
            return list(_stored_members(whole, stream))
        if kind.format == "parquet":
            return _row_groups(whole, parquet_groups(stream, whole.field, stretch.name))
        if kind.format == "json":
            return [whole]
        boundary = whole.kind.boundary or LINE
        at = [stretch.start + start for start in starts(stream, stretch.size, boundary, PART_BYTES)]
    ends = [*at[1:], stretch.end]
    return [
        replace(whole, stretch=replace(stretch, start=start, end=end))
        for start, end in zip(at, ends, strict=True)
    ]


def documents_of_piece(piece: Piece) -> Iterator[str]:
    """Yield the documents of a piece; one document and one chunk are in memory.

    Raises:
        BadData: it cannot be read, or is not what it should be.
    """
    with opened(piece.stretch) as stream:
        if piece.kind.format == "tar":
            yield from _streamed_archive(piece, stream)
        elif piece.kind.format == "parquet" and not piece.kind.codec:
            yield from parquet_documents(stream, piece.field, piece.stretch.name, piece.groups)
        else:
            yield from _streamed(piece, stream)


def parts_of(pieces: Iterable[Piece]) -> tuple[Part, ...]:
    """Return each piece as a part."""
    return tuple(
        Part(
            piece.stretch.name,
            piece.bytes,
            partial(documents_of_piece, piece),
            partial(_chunks_of_piece, piece) if piece.kind.boundary == FILE else None,
        )
        for piece in pieces
    )


def _chunks_of_piece(piece: Piece) -> Iterator[tuple[bool, str]]:
    """Yield a text file that is one document in chunks, each with whether it is the first."""
    name = piece.stretch.name
    with opened(piece.stretch) as stream:
        chunks = chunks_of(stream, name, piece.kind.codec)
        head = next(chunks, b"")
        if piece.is_optional and not _is_text(head, name):
            return
        decoder, begins = Decoder(name), True
        for chunk in chain((head,), chunks, (b"",)):
            if text := decoder.text(chunk, final=not chunk):
                yield begins, text
                begins = False


def _is_text(head: bytes, name: str) -> bool:
    """Return whether a file that begins with the chunk ``head`` begins as UTF-8 text."""
    try:
        Decoder(name).text(head, final=len(head) < CHUNK)
    except NotText:
        return False
    return True


def _row_groups(whole: Piece, sizes: list[int]) -> list[Piece]:
    """Join neighbouring row groups into pieces of about ``PART_BYTES``."""
    pieces: list[Piece] = []
    first = total = 0
    for index, size in enumerate(sizes):
        total += size
        if total >= PART_BYTES or index == len(sizes) - 1:
            groups = range(first, index + 1)
            pieces.append(replace(whole, groups=groups, column_bytes=total))
            first, total = index + 1, 0
    return pieces


def _members(archive: Piece, stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, BinaryIO, Kind]]:
    """Yield the wanted files of a tar, and how each is read; nested archives are not read.

    Raises:
        BadData: there are none.
    """
    name, found = archive.stretch.name, False
    for member, content in tar_members(stream, name, archive.kind.codec):
        if member.size and archive.reading.wants(member.name):
            kind = kind_of(member.name, archive.reading, outright=False)
            if kind.format != "tar":
                found = True
                yield member, content, kind
    if not found:
        raise BadData(f"no files in {name} match: see --include and --exclude")


def _stored_members(archive: Piece, stream: BinaryIO) -> Iterator[Piece]:
    """Yield the pieces of the files in an uncompressed tar."""
    outer = archive.stretch
    for member, _, kind in _members(archive, stream):
        start = outer.start + member.offset_data
        stretch = Stretch(f"{outer.name}:{member.name}", outer.path, start, start + member.size)
        yield from pieces_of(stretch, kind, archive.reading, is_optional=True)


def _streamed_archive(archive: Piece, stream: BinaryIO) -> Iterator[str]:
    """Yield the documents of the files in a compressed tar."""
    for member, content, kind in _members(archive, stream):
        stretch = replace(archive.stretch, name=f"{archive.stretch.name}:{member.name}")
        yield from _streamed(Piece(stretch, kind, archive.reading, stretch, True), content)


def _streamed(piece: Piece, stream: BinaryIO) -> Iterator[str]:
    """Yield the documents of a stream that is read from front to back."""
    name, kind = piece.stretch.name, piece.kind
    chunks = chunks_of(stream, name, kind.codec)
    if kind.format == "parquet":
        with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
            for chunk in chunks:
                file.write(chunk)
            yield from parquet_documents(file, piece.field, name)  # type: ignore[arg-type]
    elif kind.format == "jsonl":
        is_start = piece.stretch.start == piece.whole.start
        before = int if is_start else piece.lines_before
        yield from jsonl_documents(chunks, piece.field, name, before)
    elif kind.format == "json":
        yield from json_documents(chunks, piece.field, name)
    else:
        yield from _text(piece, chunks)


def _text(piece: Piece, chunks: Iterator[bytes]) -> Iterator[str]:
    """Yield the documents of a text; skip one of many files if its first chunk is not text."""
    name = piece.stretch.name
    offset = piece.stretch.start - piece.whole.start
    head = next(chunks, b"")
    if piece.is_optional and not _is_text(head, name):
        return
    boundary = piece.kind.boundary or boundary_of_head(head)
    is_last = piece.stretch.end == piece.whole.end
    for text in cut(chain((head,), chunks), boundary, name, offset=offset, is_last=is_last):
        document = text.strip() if boundary.trims else text
        if document or boundary.stays:
            yield document
