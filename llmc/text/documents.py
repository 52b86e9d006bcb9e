"""A text cut into documents: where one ends, in a stream, and where a file may be cut in parts.

Streams are cut as text, files as bytes. In UTF-8 no character begins inside another, so a separator
that is found among the bytes is one among the characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import BinaryIO

from llmc.errors import BadData, Usage
from llmc.text.utf8 import CHUNK, Decoder

# The text of the token between two documents.
ENDOFTEXT = "<|endoftext|>"

# A document is handed on as one string. Beyond this size it is more likely a mistake, or made to
# exhaust memory.
MAX_DOCUMENT = 1 << 30


@dataclass(frozen=True)
class Boundary:
    """Where documents end.

    Attributes:
        name: how ``--documents`` and the manifest name it.
        literal: what stands between two documents; None: nothing does, a file is one.
        windows: the same where lines may end as on Windows, a regular expression; None: the same.
        longest: the most bytes of it.
        stays: it belongs to the document before it, and an empty document counts.
        trims: whitespace around a document is left out.
    """

    name: str
    literal: str | None = None
    windows: str | None = None
    longest: int = 0
    stays: bool = False
    trims: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression for what stands between two documents."""
        return self.windows or re.escape(self.literal or "")

    @property
    def alphabet(self) -> bytes:
        """The bytes that a separator can hold."""
        return (self.literal or "").encode() + (b"\r" if self.windows else b"")

    def split(self, text: str) -> list[str]:
        """Return what stands between the separators, and behind the last one."""
        if self.literal is None:
            return [text]
        if self.windows is None or "\r" not in text:
            pieces = text.split(self.literal)
            last = pieces.pop()
            return [*(p + self.literal for p in pieces), last] if self.stays else [*pieces, last]
        pieces = re.split(f"({self.windows})", text)
        ends = pieces[1::2] if self.stays else [""] * (len(pieces) // 2)
        return [*map("".join, zip(pieces[::2], ends, strict=False)), pieces[-1]]

    def is_in(self, text: str) -> bool:
        """Tell whether a separator is in ``text``."""
        if self.windows is None or "\r" not in text:
            return self.literal is not None and self.literal in text
        return re.search(self.windows, text) is not None


def separator(text: str, *, name: str | None = None, trims: bool = False) -> Boundary:
    """Return the boundary at every ``text``, from left to right."""
    return Boundary(name or text, text, longest=len(text.encode()), trims=trims)


FILE = Boundary("file")
LINE = Boundary("line", "\n", r"\r?\n", 2)
# llm.c's rule: every blank line ends a document, and its newlines stay before the end.
BLANK_LINE = Boundary("blank-line", "\n\n", r"\r?\n\r?\n", 4, stays=True)
AT_ENDOFTEXT = separator(ENDOFTEXT, name="endoftext", trims=True)
RECORD = "record"
NAMED = {boundary.name: boundary for boundary in (FILE, LINE, BLANK_LINE, AT_ENDOFTEXT)}

_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\"}


def boundary_named(text: str) -> Boundary:
    r"""Return the boundary that ``--documents`` names, or that at the separator it gives.

    In a separator ``\n``, ``\r``, ``\t`` and ``\\`` mean what they mean elsewhere.

    Raises:
        Usage: it is empty, or looks like a misspelt name.
    """
    if text in NAMED:
        return NAMED[text]
    if near := get_close_matches(text, [*NAMED, RECORD], n=1, cutoff=0.75):
        raise Usage(f"--documents cannot be '{text}': did you mean '{near[0]}'?")
    if not text:
        raise Usage("--documents cannot be empty: name a separator, or one of " + ", ".join(NAMED))
    try:
        return separator(re.sub(r"\\[nrt\\]", lambda match: _ESCAPES[match[0]], text), name=text)
    except UnicodeEncodeError as error:
        raise Usage(f"--documents {text!r} is not UTF-8 text: name another separator") from error


def boundary_of_head(head: bytes) -> Boundary:
    """Choose for a text that begins with ``head``: at ``<|endoftext|>`` if it has lines of it.

    The mark inside a line is no sign: sources and articles about tokenizers quote it.
    """
    mark = re.escape(ENDOFTEXT.encode())
    return AT_ENDOFTEXT if re.search(rb"(?m)^" + mark + rb"\r?$", head) else FILE


def cut(
    chunks: Iterable[bytes], boundary: Boundary, name: str, *, offset: int = 0, is_last: bool = True
) -> Iterator[str]:
    """Yield what stands between the boundaries of a text, empty ones too.

    At most one document and one chunk are held.

    Args:
        chunks: the text in UTF-8, cut anywhere.
        boundary: where documents end.
        name: what the text is called in messages.
        offset: of the first byte in its file, for messages.
        is_last: the text ends with the file, not with one of its parts.

    Raises:
        NotText: it is not UTF-8.
        BadData: a document is larger than ``MAX_DOCUMENT``.
    """
    decoder = Decoder(name, offset)
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
            "say where to cut it with --documents"
        )


def starts(stream: BinaryIO, size: int, boundary: Boundary, step: int) -> list[int]:
    """Return offsets, the first 0, where documents begin, ``step`` bytes or more apart.

    The documents between two of them are those that :func:`cut` finds there in the whole. Where
    separators run into each other ("\\n\\n\\n\\n") the cut depends on all that came before, so only
    those count that follow on a byte no separator holds.
    """
    found = [0]
    if boundary.literal is not None:
        while (start := _start_after(stream, found[-1] + step, size, boundary)) is not None:
            found.append(start)
    return found


def _start_after(stream: BinaryIO, offset: int, size: int, boundary: Boundary) -> int | None:
    """Return where the first document begins whose separator begins behind ``offset``."""
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
