"""Look at a file before it is read: hash it, check that it is text, see how its start is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llmc.errors import BadData
from llmc.kinds import HEAD_BYTES, no_text, not_data
from llmc.text.documents import boundary_of_head
from llmc.text.encodings import AUTO, damaged_utf8, declared_encoding, encoding_of
from llmc.text.reading import TEXTUAL, Kind, Reading
from llmc.text.records import is_one_json
from llmc.text.tables import column_of
from llmc.text.utf8 import CHUNK, LEAVE, UTF8, Decoder, NotText, Unreadable, escaped_encoding

SHOWN = 10  # files that are left out, on a terminal


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read, and why."""

    name: str
    reason: str  # a sentence without its subject

    def record(self) -> dict[str, str]:
        """Return the entry of the manifest."""
        return {"file": self.name, "reason": self.reason}


def left_out(name: str, error: BadData) -> LeftOut:
    """Return the file ``name`` as one that is left out because of an error."""
    if isinstance(error, Unreadable):
        return LeftOut(name, error.reason)
    return LeftOut(name, str(error).removeprefix(name).lstrip(":, "))


def sentence_of(files: Sequence[LeftOut]) -> str:
    """Return three of the files that are left out, each with its reason, and how many more."""
    shown = "; ".join(f"{file.name} {file.reason}" for file in files[:3])
    return f"{shown}; and {len(files) - 3:,} more" if len(files) > 3 else shown


def lines_of(files: Sequence[LeftOut]) -> list[str]:
    """Return what is left out as lines for a terminal: the first ten, and how many more."""
    if not files:
        return []
    lines = [f"  {file.name} {file.reason}" for file in files[:SHOWN]]
    if len(files) > SHOWN:
        lines.append(f"  and {len(files) - SHOWN:,} more, which manifest.json lists")
    return [f"left out {len(files):,} {'file' if len(files) == 1 else 'files'}:", *lines]


@dataclass(frozen=True)
class Examined:
    """What one reading of a file found."""

    size: int  # in bytes
    sha256: str  # of its bytes
    head: bytes  # its first bytes, at most ``CHUNK``; compressed as they are
    encoding: str = UTF8  # of its text
    fault: Unreadable | None = None  # why it is not what it should be (None: it is)


class Check:
    """Checks the bytes of a text as they pass by: are they text, and in which encoding?"""

    def __init__(self, name: str, kind: Kind, reading: Reading) -> None:
        self._name, self._asked = name, reading.encoding
        self._is_page = kind.format == "html"
        self._decoder: Decoder | None = None
        self._size = 0
        self._is_ascii = True  # so far
        self.encoding = UTF8

    def see(self, chunk: bytes) -> None:
        """Check the next bytes; none for the end.

        Raises:
            Unreadable: they are not text.
        """
        if self._decoder is None:
            if (title := no_text(chunk[:HEAD_BYTES])) is not None:
                raise Unreadable(self._name, f"is not UTF-8 text (it is {title})", LEAVE)
            if self._is_page and self._asked is None:
                self.encoding = declared_encoding(chunk)
            else:
                self.encoding = encoding_of(chunk, self._asked, self._name)
            self._decoder = Decoder(self._name, encoding=self.encoding)
        if self.encoding == UTF8 and (escaped := escaped_encoding(chunk)):
            advice = f"name its --encoding, such as {escaped}, or convert it"
            raise NotText(self._name, f"is not UTF-8 text (it looks like {escaped})", advice)
        try:
            self._decoder.text(chunk, final=not chunk)
        except NotText as error:
            if self._asked != AUTO or self.encoding != UTF8 or not (self._size and chunk):
                raise
            if not self._is_ascii:
                raise damaged_utf8(self._name) from error
            # The first chunks were ASCII; this one shows the encoding.
            self.encoding = encoding_of(chunk, AUTO, self._name)
            self._decoder = Decoder(self._name, self._size, self.encoding)
            self._decoder.text(chunk)
        self._is_ascii = self._is_ascii and chunk.isascii()
        self._size += len(chunk)


def examine(path: Path, kind: Kind, reading: Reading, *, name: str | None = None) -> Examined:
    """Read a file once: hash it, and check that it is what it should be.

    A git-lfs pointer is never what a file should be; a web page only where text is read. All of an
    uncompressed text is checked.

    Raises:
        Unreadable: it cannot be read.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            return _examined(file, kind, reading, name)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise Unreadable(name, reason, LEAVE) from error


def _examined(file: BinaryIO, kind: Kind, reading: Reading, name: str) -> Examined:
    digest, check = hashlib.sha256(), Check(name, kind, reading)
    is_text = kind.format in TEXTUAL and not kind.codec
    head = chunk = file.read(CHUNK)
    fault = stand_in(head, kind, name)
    while chunk:
        digest.update(chunk)
        fault = fault or (_fault(check, chunk) if is_text else None)
        chunk = file.read(CHUNK)
    if is_text and head:
        fault = fault or _fault(check, b"")
    return Examined(file.tell(), digest.hexdigest(), head, check.encoding, fault)


def stand_in(head: bytes, kind: Kind, name: str) -> Unreadable | None:
    """Return why a file that begins with ``head`` only stands in for one of this kind, or None."""
    is_page = kind.format in ("text", "html") and not kind.codec
    if (sentence := not_data(head[:HEAD_BYTES], name, page_is_fine=is_page)) is None:
        return None
    what, _, advice = sentence.removeprefix(f"{name} ").partition(": ")
    return Unreadable(name, what, advice)


def _fault(check: Check, chunk: bytes) -> Unreadable | None:
    try:
        check.see(chunk)
    except Unreadable as error:
        return error
    return None


def encoded_kind(kind: Kind, head: bytes, name: str, reading: Reading) -> Kind:
    """Return how a text that begins with ``head``, decompressed, is read: with its encoding.

    Raises:
        Unreadable: it is not text.
    """
    check = Check(name, kind, reading)
    check.see(head)
    if len(head) < CHUNK:
        check.see(b"")
    return replace(kind, encoding=check.encoding)


def settled(kind: Kind, head: bytes, name: str, reading: Reading) -> Kind:
    """Return how a file is read that begins with ``head``, decompressed, in its encoding.

    Raises:
        NoField: a table has no column of text.
    """
    if kind.format not in TEXTUAL:
        return kind
    if kind.encoding != UTF8:
        head = Decoder(name, encoding=kind.encoding).text(head).encode(errors="surrogatepass")
    if kind.format == "text" and kind.boundary is None:
        return replace(kind, boundary=boundary_of_head(head))
    head = head.removeprefix(b"\xef\xbb\xbf")
    if kind.format == "jsonl" and is_one_json(head):
        return replace(kind, format="json")
    if kind.format in ("csv", "tsv") and kind.field is None:
        column = column_of(head, kind.format, reading.fields, name)
        return replace(kind, field=column)
    return kind
