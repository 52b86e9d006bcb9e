"""Split a text into documents, and find where a large file can be split into parts.

Streams are split as text, files as bytes. In UTF-8 no character begins inside another, so that a
separator found in the bytes is a separator of the text.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain
from typing import BinaryIO

from llmc.errors import BadData, Usage
from llmc.text.utf8 import CHUNK, Decoder, unix_text

# The text of the token between two documents.
ENDOFTEXT = "<|endoftext|>"

# A document is one string in memory. A larger one is a mistake or an attack.
MAX_DOCUMENT = 1 << 30


@dataclass(frozen=True)
class Boundary:
    """Where documents end."""

    name: str  # for --documents and in the manifest
    literal: str | None = None  # the separator; None: every file is one document
    windows: str | None = None  # a regular expression for it with Windows' line ends, if it differs
    longest: int = 0  # the greatest length of the separator in bytes
    stays: bool = False  # it is part of the document before it, and empty documents count
    trims: bool = False  # white space around documents is removed

    @property
    def pattern(self) -> str:
        """A regular expression for the separator."""
        return self.windows or re.escape(self.literal or "")

    @property
    def alphabet(self) -> bytes:
        """The bytes that occur in a separator."""
        return (self.literal or "").encode() + (b"\r" if self.windows else b"")

    def unix(self) -> Boundary:
        """Return this boundary for text in which CR LF and CR become LF."""
        if self.literal is None or self.windows or not re.search("[\r\n]", self.literal):
            return self
        literal = unix_text(self.literal)
        windows = re.escape(literal).replace("\\\n", r"\r?\n").replace("\n", r"\r?\n")
        longest = len(literal.encode()) + literal.count("\n")
        return replace(self, literal=literal, windows=windows, longest=longest)

    def split(self, text: str) -> list[str]:
        """Return the documents between the separators, and the rest after the last one."""
        if self.literal is None:
            return [text]
        if self.windows is None or "\r" not in text:
            *pieces, last = text.split(self.literal)
            return [*(p + self.literal for p in pieces), last] if self.stays else [*pieces, last]
        pieces = re.split(f"({self.windows})", text)
        ends = pieces[1::2] if self.stays else [""] * (len(pieces) // 2)
        return [*map("".join, zip(pieces[::2], ends, strict=False)), pieces[-1]]

    def is_in(self, text: str) -> bool:
        """Return whether ``text`` contains a separator."""
        if self.windows is None or "\r" not in text:
            return self.literal is not None and self.literal in text
        return re.search(self.windows, text) is not None


def separator(text: str, *, name: str | None = None, trims: bool = False) -> Boundary:
    """Return the boundary whose separator is ``text``."""
    return Boundary(name or text, text, longest=len(text.encode()), trims=trims)


FILE = Boundary("file")
LINE = Boundary("line", "\n", r"\r?\n", 2)
# llm.c's rule: every blank line ends a document, and its newlines stay before the end.
BLANK_LINE = Boundary("blank-line", "\n\n", r"\r?\n\r?\n", 4, stays=True)
AT_ENDOFTEXT = separator(ENDOFTEXT, name="endoftext", trims=True)
RECORD = "record"
NAMED = {boundary.name: boundary for boundary in (FILE, LINE, BLANK_LINE, AT_ENDOFTEXT)}

_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\"}


def unescaped(text: str) -> str:
    r"""Return a text with the escapes ``\n``, ``\r``, ``\t`` and ``\\`` replaced."""
    return re.sub(r"\\[nrt\\]", lambda match: _ESCAPES[match[0]], text)


def boundary_named(text: str) -> Boundary:
    r"""Return the boundary for a value of ``--documents``: a name or a separator.

    A separator may contain the escapes ``\n``, ``\r``, ``\t`` and ``\\``.

    Raises:
        Usage: the value is empty, or looks like a misspelt name.
    """
    if text in NAMED:
        return NAMED[text]
    if near := get_close_matches(text, [*NAMED, RECORD], n=1, cutoff=0.75):
        raise Usage(f"--documents cannot be '{text}': did you mean '{near[0]}'?")
    if not text:
        raise Usage("--documents cannot be empty: name a separator, or one of " + ", ".join(NAMED))
    try:
        return separator(unescaped(text), name=text)
    except UnicodeEncodeError as error:
        raise Usage(f"--documents {text!r} is not UTF-8 text: name another separator") from error


def boundary_of_head(head: bytes) -> Boundary:
    """Return the boundary for a text that begins with ``head``.

    It is ``<|endoftext|>`` if a line consists of it. The mark inside a line does not count, because
    code and articles about tokenizers quote it.
    """
    mark = re.escape(ENDOFTEXT.encode())
    if ENDOFTEXT.encode() not in head:
        return FILE
    lines = rb"(?:\A|(?<=[\r\n]))" + mark + rb"(?=[\r\n]|\Z)"
    return AT_ENDOFTEXT if re.search(lines, head.removeprefix(BOM_UTF8)) else FILE


def cut(
    chunks: Iterable[bytes],
    boundary: Boundary,
    name: str,
    *,
    is_last: bool = True,
    decoder: Decoder | None = None,
    on_separator: Callable[[], object] = lambda: None,
) -> Iterator[str]:
    """Yield the documents of a text, empty ones too.

    At most one document and one chunk are in memory.

    ``chunks`` are the text in UTF-8, split anywhere. With ``is_last`` the text goes to the end of
    its file. ``decoder`` decodes the chunks; by default it keeps the ends of lines.
    ``on_separator`` is called where there is a separator.

    Raises:
        NotText: it is not UTF-8.
        BadData: a document is larger than ``MAX_DOCUMENT``.
    """
    decoder = decoder or Decoder(name)
    if boundary.literal is None:
        whole = bytearray()
        for chunk in chunks:
            whole += chunk
            _check_size(len(whole), name)
        if whole:
            yield decoder.text(whole, final=True)
        return
    held: list[str] = []  # of the document that has not ended
    size = 0
    tail = ""  # its end, where a separator may have begun
    for chunk in chain(chunks, (b"",)):
        text = decoder.text(chunk, final=not chunk)
        junction = tail + text
        if boundary.is_in(junction):
            on_separator()
            *whole_ones, text = boundary.split("".join((*held, text)))
            yield from whole_ones
            held, size, junction = [], 0, text
        held.append(text)
        size += len(text)
        tail = junction[1 - boundary.longest :] if boundary.longest > 1 else ""
        _check_size(size, name)
    last = "".join(held)
    if last or (boundary.stays and is_last):
        yield last


def _check_size(size: int, name: str) -> None:
    if size > MAX_DOCUMENT:
        raise BadData(
            f"{name} holds a document of more than {MAX_DOCUMENT >> 20:,} MiB: "
            "name a separator with --documents"
        )


def starts(stream: BinaryIO, size: int, boundary: Boundary, step: int) -> list[int]:
    """Return offsets at which documents begin, at least ``step`` bytes apart; the first is 0.

    Splitting between them gives the same documents as :func:`cut` on the whole file. In a run of
    separators ("\\n\\n\\n\\n") the split depends on everything before, so only separators after a
    byte that occurs in no separator are used.
    """
    found = [0]
    if boundary.literal is not None:
        while (start := _start_after(stream, found[-1] + step, size, boundary)) is not None:
            found.append(start)
    return found


def _start_after(stream: BinaryIO, offset: int, size: int, boundary: Boundary) -> int | None:
    """Return where the first document begins whose separator begins after ``offset``."""
    pattern = re.compile(boundary.pattern.encode())
    while offset < size:
        stream.seek(offset)
        window = stream.read(CHUNK)
        for match in pattern.finditer(window, 1):
            if window[match.start() - 1] not in boundary.alphabet:
                end = offset + match.end()
                return end if end < size else None
        if len(window) < CHUNK:
            return None
        # Far enough back for a separator across the windows, and the byte before it.
        offset += CHUNK - boundary.longest
    return None
