"""Split text into pieces that can be read independently, in this process or another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

from llmc.errors import BadData
from llmc.text.archives import Member
from llmc.text.documents import FILE, LINE, starts
from llmc.text.examine import Check, LeftOut, encoded_kind, left_out, sentence_of, settled, stand_in
from llmc.text.fields import NoField
from llmc.text.files import Stretch, chunks_of, opened
from llmc.text.pages import page_text
from llmc.text.parquet import column_sizes
from llmc.text.piece import (
    Piece,
    Seen,
    chunks_of_piece,
    documents_of_piece,
    members_of,
    plain_chunks,
    spooled,
)
from llmc.text.reading import (
    ARCHIVES,
    BINARY,
    COLUMNAR,
    PAGES,
    RECORDS,
    TEXTUAL,
    Kind,
    Reading,
    kind_of,
)
from llmc.text.split_names import TRAIN, VALIDATION, note_on_few, splits_by_name, why_left_out
from llmc.text.utf8 import LEAVE, UTF8, Unreadable

# A large file is split into parts of about this size.
PART_BYTES = 64 << 20


@dataclass(frozen=True)
class Part:
    """A piece of a text that can be read by itself, by another process or on another machine."""

    name: str  # in messages
    bytes: int | None  # its stored size, for progress; None if that is not known
    # Returns a new iterator over its documents; it can be pickled, and gives the same documents
    # every time.
    read: Callable[[], Iterator[str]]
    # Makes an iterator over a single document in chunks, each with whether it begins the document;
    # None: the part is not a single document.
    stream: Callable[[], Iterator[tuple[bool, str]]] | None = None
    # Its first document tells what records it, and the parts of the same file, hold.
    tells_records: bool = False

    def texts(self) -> Iterator[str | tuple[bool, str]]:
        """Yield the documents; a single document in chunks, so that memory stays bounded."""
        return self.read() if self.stream is None else self.stream()


def documents_of(parts: Iterable[Part]) -> Iterator[str]:
    """Yield the documents of all parts, in order."""
    for part in parts:
        yield from part.read()


@dataclass
class Pieces:
    """What files become: pieces of text, what is left out of them, and what was in them."""

    pieces: list[Piece] = field(default_factory=list)
    validation: list[Piece] = field(default_factory=list)  # of archives with splits of their own
    notes: list[str] = field(default_factory=list)  # the splits of archives
    left_out: list[LeftOut] = field(default_factory=list)
    kinds: set[Kind] = field(default_factory=set)  # of all files, those in archives too
    seen: Seen = field(default_factory=Seen)

    def add(
        self,
        stretch: Stretch,
        kind: Kind,
        reading: Reading,
        *,
        head: bytes | None = None,
        is_optional: bool = False,
    ) -> None:
        """Split a file or an archive's member into pieces that can be read in parallel.

        Their documents, one piece after the other, are those of the whole. A compressed file is one
        piece; an uncompressed tar has one or more for each member.

        Args:
            stretch: where it lies.
            kind: how it is read, by its name.
            reading: the options.
            head: its first bytes, if it is a text that was examined; ``kind`` has its encoding.
            is_optional: it is one of many files: if it cannot be read, it is left out.

        Raises:
            BadData: it cannot be read, or is not what its name says.
        """
        whole = Piece(stretch, kind, reading, stretch, seen=self.seen)
        before, own = len(self.pieces), len(self.validation)
        try:
            if kind.format in ARCHIVES:
                self._add_archive(whole)
                return
            if kind.format in TEXTUAL and (head is None or kind.codec):
                with opened(stretch) as stream:
                    head = next(plain_chunks(whole, stream), b"")
                kind = encoded_kind(kind, head, stretch.name, reading)
            kind = settled(kind, head or b"", stretch.name, reading)
            if kind.format in PAGES and kind.format != "html":
                list(documents_of_piece(replace(whole, kind=kind)))  # a damaged one says so
            self.pieces += _split(replace(whole, kind=kind))
            self.kinds.add(kind)
        except BadData as error:
            if not (is_optional and _may_be_left_out(error, kind, reading)):
                raise
            del self.pieces[before:], self.validation[own:]
            self.left_out.append(left_out(stretch.name, error))

    def _add_archive(self, archive: Piece) -> None:
        """Examine every file in an archive, and add the archive, or those of a plain tar."""
        outer, reading = archive.stretch, archive.reading
        before, out_before = len(self.pieces), len(self.left_out)
        is_plain = archive.kind == Kind("tar")
        verdicts: dict[int, str | None] = {}
        names: dict[int, str] = {}
        made: dict[int, list[Piece]] = {}  # of a plain tar: those of each file
        with opened(outer) as stream:
            for index, member in members_of(archive, stream):
                name = f"{outer.name}:{member.name}"
                kind = kind_of(member.name, reading, outright=False)
                try:
                    kind, head = _examined(kind, member, name, reading)
                    if not is_plain and not kind.codec:
                        settled(kind, head, name, reading)
                except BadData as error:
                    if not _may_be_left_out(error, kind, reading):
                        raise
                    self.left_out.append(left_out(name, error))
                    verdicts[index] = None
                    continue
                names[index] = member.name
                if is_plain:
                    start, first = outer.start + member.offset, len(self.pieces)
                    stretch = Stretch(name, outer.path, start, start + member.size)
                    self.add(stretch, kind, reading, head=head, is_optional=True)
                    made[index] = self.pieces[first:]
                    continue
                self.kinds.add(kind)
                if kind.encoding != UTF8:
                    verdicts[index] = kind.encoding
        splits = self._splits(outer.name, names)
        own = {index for index, split in splits.items() if split == VALIDATION}
        unread = names.keys() - splits.keys()
        if is_plain:
            train = {index for index, split in splits.items() if split == TRAIN}
            self.pieces[before:] = [piece for each in made if each in train for piece in made[each]]
            self.validation += [piece for each in made if each in own for piece in made[each]]
        elif names:
            others = verdicts | dict.fromkeys(unread | own)
            self.pieces.append(replace(archive, members=others))
            others = verdicts | dict.fromkeys(names.keys() - own)
            self.validation += [replace(archive, members=others)] if own else []
        if len(self.pieces) == before:
            without = self.left_out[out_before:]
            if not without and (reading.include or reading.exclude):
                raise BadData(f"no files in {outer.name} match: see --include and --exclude")
            if not without:
                raise BadData(f"there are no files in {outer.name}: name another")
            raise Unreadable(outer.name, "holds no text", sentence_of(without))

    def _splits(self, archive: str, names: dict[int, str]) -> dict[int, str]:
        """Return the split of each file in an archive that is read, and name the others.

        Without splits of its own all of it is training text.
        """
        splits = splits_by_name(names)
        if not splits:
            self.notes += note_on_few(archive, names.values())
            return dict.fromkeys(names, TRAIN)
        found = {}
        for index, name in names.items():
            advice = "read it alone with --include"
            if (reason := why_left_out(name, splits.get(index), advice)) is not None:
                self.left_out.append(LeftOut(f"{archive}:{name}", reason))
            else:
                found[index] = splits.get(index, TRAIN)
        counts = {split: [*found.values()].count(split) for split in (TRAIN, VALIDATION)}
        said = "; ".join(f"split {each}, {count} files" for each, count in counts.items() if count)
        self.notes.append(f"{archive}: {said}")
        return found


def _may_be_left_out(error: BadData, kind: Kind, reading: Reading) -> bool:
    """Return whether one of many files is left out after an error, and named.

    Records without the field that is wanted end the work: they are text. A table without a column
    of text, where none was named, need not be.
    """
    is_table = kind.format in {"csv", "tsv"} | COLUMNAR and not reading.fields
    return is_table or not isinstance(error, NoField)


def _examined(kind: Kind, member: Member, name: str, reading: Reading) -> tuple[Kind, bytes]:
    """Return how a file in an archive is read, and its first bytes; all of a text is checked."""
    if kind.format in ARCHIVES:
        raise Unreadable(name, "is an archive in an archive", "unpack it first")
    if member.content is None:
        raise Unreadable(name, member.fault, LEAVE)
    any_ratio = reading.any_ratio
    chunks = chunks_of(member.content, name, "")
    head = next(chunks, b"")
    if not head:
        raise Unreadable(name, "is empty", LEAVE)
    if (fault := stand_in(head, kind, name)) is not None:
        raise fault
    if kind.format in TEXTUAL and not kind.codec:
        check = Check(name, kind, reading)
        for chunk in chain((head,), chunks, (b"",)):
            check.see(chunk)
        kind = replace(kind, encoding=check.encoding)
    if kind.format in BINARY and not kind.codec:
        with spooled(chain((head,), chunks)) as file:
            if kind.format in COLUMNAR:
                column_sizes(file, kind.format, reading.fields, name, any_ratio=any_ratio)
            else:
                page_text(file, kind.format, name, any_ratio=any_ratio)
    return kind, head


def _split(whole: Piece) -> list[Piece]:
    """Return the pieces of a file whose kind is settled."""
    stretch, kind = whole.stretch, whole.kind
    if kind.format in COLUMNAR and not kind.codec:
        with opened(stretch) as stream:
            any_ratio = whole.reading.any_ratio
            name, fields = stretch.name, whole.reading.fields
            sizes = column_sizes(stream, kind.format, fields, name, any_ratio=any_ratio)
        return _row_groups(whole, sizes) if sizes else [whole]
    is_cut = kind.format == "jsonl" or kind.boundary is not None
    if kind.codec or not is_cut or kind.encoding != UTF8 or stretch.size <= PART_BYTES:
        return [whole]
    boundary = kind.boundary or LINE
    with opened(stretch) as stream:
        at = [stretch.start + start for start in starts(stream, stretch.size, boundary, PART_BYTES)]
    return [
        replace(whole, stretch=replace(stretch, start=start, end=end))
        for start, end in zip(at, [*at[1:], stretch.end], strict=True)
    ]


def parts_of(pieces: Iterable[Piece]) -> tuple[Part, ...]:
    """Return each piece as a part."""
    return tuple(
        Part(
            piece.stretch.name,
            piece.bytes,
            partial(documents_of_piece, piece),
            partial(chunks_of_piece, piece) if piece.kind.boundary == FILE else None,
            tells_records=piece.begins and piece.kind.format in RECORDS | ARCHIVES,
        )
        for piece in pieces
    )


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
