"""A piece of a text: where its bytes lie, and how they become documents.

A :class:`Piece` holds no open file, so it can be pickled and read again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, BinaryIO, cast

from llmc.text.archives import Member, tar_members, zip_members
from llmc.text.documents import cut
from llmc.text.encodings import in_utf8
from llmc.text.examine import settled
from llmc.text.files import Stretch, chunks_of, opened
from llmc.text.pages import page_text
from llmc.text.parquet import column_documents
from llmc.text.reading import ARCHIVES, COLUMNAR, PAGES, TEXTUAL, Kind, Reading, kind_of
from llmc.text.records import json_documents, jsonl_documents
from llmc.text.tables import table_documents
from llmc.text.utf8 import MARK, UTF8, Decoder, unix_text

# Some formats need random access: a streamed file is kept in memory up to this size, and beyond it
# in a temporary file.
SPOOLED_BYTES = 64 << 20


@dataclass
class Seen:
    """What was seen while documents were read, in this process."""

    line_ends: bool = False  # CR LF or CR became LF
    is_split: bool = False  # a text was split at a separator, wherever that is
    separator: bool = False  # the separator occurred

    def see_separator(self) -> None:
        """Take down that the separator occurred."""
        self.separator = True


@dataclass(frozen=True)
class Piece:
    """A stretch of a file, and how it becomes documents."""

    stretch: Stretch
    kind: Kind
    reading: Reading
    whole: Stretch  # the file or archive member that it is a stretch of, for line numbers
    groups: range | None = None  # the row groups of a parquet file; None: all
    column_bytes: int | None = None  # the size of their text, unpacked
    # Of an archive that is streamed: which members are not read (None), or their encoding.
    members: dict[int, str | None] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen, compare=False)

    @property
    def bytes(self) -> int:
        """Its size, for progress."""
        return self.stretch.size if self.column_bytes is None else self.column_bytes

    @property
    def begins(self) -> bool:
        """Whether it begins its file or archive member."""
        return self.stretch.start == self.whole.start and not (self.groups and self.groups.start)

    @property
    def decoder(self) -> Decoder:
        """A decoder for its bytes in UTF-8."""
        offset = self.stretch.start - self.whole.start
        return Decoder(self.stretch.name, offset, unix=self.reading.unix)

    def lines_before(self) -> int:
        """Count the lines of the file before this stretch."""
        before = replace(self.whole, end=self.stretch.start)
        with opened(before) as stream:
            return sum(chunk.count(b"\n") for chunk in chunks_of(stream, before.name, ""))


def documents_of_piece(piece: Piece) -> Iterator[str]:
    """Yield the documents of a piece; one document and one chunk are in memory.

    Raises:
        BadData: it cannot be read, or is not what it should be.
    """
    for text in _raw_documents(piece):
        document = text.removeprefix(MARK)
        if piece.reading.unix and "\r" in document:
            document = unix_text(document)
            piece.seen.line_ends = True
        yield document


def chunks_of_piece(piece: Piece) -> Iterator[tuple[bool, str]]:
    """Yield a text file that is one document in chunks, each with whether it is the first."""
    with opened(piece.stretch) as stream:
        chunks = in_utf8(plain_chunks(piece, stream), piece.kind.encoding, piece.stretch.name)
        decoder, begins = piece.decoder, True
        for chunk in chain(chunks, (b"",)):
            if text := decoder.text(chunk, final=not chunk):
                yield begins, text
                begins = False
        piece.seen.line_ends |= decoder.changed


def members_of(archive: Piece, stream: BinaryIO) -> Iterator[tuple[int, Member]]:
    """Yield the wanted members of an archive with their numbers."""
    name, any_ratio = archive.stretch.name, archive.reading.any_ratio
    if archive.kind.format == "zip" and archive.kind.codec:
        with spooled(plain_chunks(archive, stream)) as plain:
            yield from members_of(replace(archive, kind=Kind("zip")), plain)
        return
    if archive.kind.format == "zip":
        found = zip_members(stream, name, any_ratio=any_ratio)
    else:
        found = tar_members(stream, name, archive.kind.codec, any_ratio=any_ratio)
    for index, member in enumerate(found):
        if archive.reading.wants(member.name):
            yield index, member


def _raw_documents(piece: Piece) -> Iterator[str]:
    with opened(piece.stretch) as stream:
        if piece.kind.format in ARCHIVES:
            yield from _streamed_archive(piece, stream)
        elif piece.kind.format not in TEXTUAL and not piece.kind.codec:
            yield from _seekable(piece, stream)
        else:
            yield from _streamed(piece, stream)


def _streamed_archive(archive: Piece, stream: BinaryIO) -> Iterator[str]:
    """Yield the documents of the files in an archive that is read from front to back."""
    for index, member in members_of(archive, stream):
        encoding = archive.members.get(index, UTF8)
        if encoding is None or member.content is None:
            continue
        kind = replace(kind_of(member.name, archive.reading, outright=False), encoding=encoding)
        stretch = replace(archive.stretch, name=f"{archive.stretch.name}:{member.name}")
        inner = Piece(stretch, kind, archive.reading, stretch, seen=archive.seen)
        yield from _streamed(inner, member.content)


def _streamed(piece: Piece, stream: BinaryIO) -> Iterator[str]:
    """Yield the documents of a stream that is read from front to back."""
    name = piece.stretch.name
    chunks = plain_chunks(piece, stream)
    if piece.kind.format not in TEXTUAL:
        with spooled(chunks) as file:
            yield from _seekable(piece, file)
        return
    if piece.stretch.start == piece.whole.start:
        head = next(chunks, b"")
        piece = replace(piece, kind=settled(piece.kind, head, name, piece.reading))
        chunks = chain((head,), chunks)
    chunks = in_utf8(chunks, piece.kind.encoding, name)
    form, fields = piece.kind.format, piece.reading.fields
    if form == "jsonl":
        yield from jsonl_documents(chunks, fields, name, piece.lines_before)
    elif form == "json":
        yield from json_documents(chunks, fields, name)
    elif piece.kind.field is not None:
        yield from table_documents(chunks, form, piece.kind.field, name)
    elif form in PAGES:
        with spooled(chunks) as file:
            yield from _seekable(piece, file)
    else:
        yield from _text(piece, chunks)


def _seekable(piece: Piece, stream: BinaryIO) -> Iterator[str]:
    """Yield the documents of a file of a format that needs random access."""
    name = piece.stretch.name
    form = piece.kind.format
    if form in COLUMNAR:
        fields = piece.reading.fields
        yield from column_documents(stream, form, fields, name, piece.groups)
    elif text := page_text(stream, form, name, any_ratio=piece.reading.any_ratio):
        yield text


def _text(piece: Piece, chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the documents of a text."""
    boundary = piece.kind.boundary
    assert boundary is not None  # settled
    is_last = piece.stretch.end == piece.whole.end
    decoder = piece.decoder
    name, seen = piece.stretch.name, piece.seen
    if boundary.literal is not None:
        seen.is_split = True
        if piece.stretch != piece.whole:
            seen.see_separator()  # a file is cut there into its stretches
    options: dict[str, Any] = {"is_last": is_last, "decoder": decoder}
    for text in cut(chunks, boundary, name, **options, on_separator=seen.see_separator):
        document = text.strip() if boundary.trims else text
        if document or boundary.stays:
            yield document
    seen.line_ends |= decoder.changed


def plain_chunks(piece: Piece, stream: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a piece's stream, decompressed; errors as in :func:`chunks_of`."""
    any_ratio = piece.reading.any_ratio
    return chunks_of(stream, piece.stretch.name, piece.kind.codec, any_ratio=any_ratio)


@contextmanager
def spooled(chunks: Iterable[bytes]) -> Iterator[BinaryIO]:
    """Yield a stream of ``chunks`` with random access."""
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        yield cast(BinaryIO, file)
