"""A text cut into documents: where one ends, in a stream, and where a file may be cut in parts.

Everything here works on UTF-8 bytes. No byte of one character is the start of another, so a
separator found among the bytes is one among the characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import BinaryIO

from llmc.errors import BadData, Usage
from llmc.tokenizers import ENDOFTEXT

CHUNK = 1 << 20

# A document is handed on as one string. Beyond this size it is more likely a mistake, or made to
# exhaust memory.
MAX_DOCUMENT = 1 << 30


@dataclass(frozen=True)
class Boundary:
    """Where documents end.

    Attributes:
        name: how ``--documents`` and the manifest name it.
        pattern: a regular expression for what stands between two documents; None: nothing does,
            a file is one document.
        longest: the most bytes that it matches.
        alphabet: the bytes that a match can hold.
        stays: the separator belongs to the document before it, and an empty document counts.
        trims: whitespace around a document is left out.
    """

    name: str
    pattern: bytes | None = None
    longest: int = 0
    alphabet: bytes = b""
    stays: bool = False
    trims: bool = False


def separator(text: str, *, name: str | None = None, trims: bool = False) -> Boundary:
    """Return the boundary at every ``text``, from left to right."""
    data = text.encode()
    return Boundary(name or text, re.escape(data), len(data), bytes(set(data)), trims=trims)


FILE = Boundary("file")
LINE = Boundary("line", rb"\r?\n", 2, b"\r\n")
# llm.c's rule: every blank line ends a document, and its newlines stay before the end.
BLANK_LINE = Boundary("blank-line", rb"\r?\n\r?\n", 4, b"\r\n", stays=True)
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
    chunks: Iterable[bytes], boundary: Boundary, name: str, *, is_last: bool = True
) -> Iterator[tuple[int, bytes]]:
    """Yield what stands between the boundaries of a stream, each with its first byte's offset.

    Empty ones too; at most one document and one chunk are held.

    Args:
        chunks: the text, cut anywhere.
        boundary: where documents end.
        name: what the text is called in messages.
        is_last: the stream ends with the file, not with one of its parts.

    Raises:
        BadData: a document is larger than ``MAX_DOCUMENT``.
    """
    pattern = re.compile(boundary.pattern) if boundary.pattern is not None else None
    held = bytearray()
    offset = searched = 0
    for chunk in chunks:
        held += chunk
        if pattern is not None:
            start = 0
            # A list: the buffer cannot change its size while it is being searched.
            for first, end in [match.span() for match in pattern.finditer(held, searched)]:
                yield offset + start, bytes(held[start : end if boundary.stays else first])
                start = end
            del held[:start]
            offset += start
            searched = max(0, len(held) - boundary.longest + 1)
        if len(held) > MAX_DOCUMENT:
            raise BadData(
                f"{name} holds a document of more than {MAX_DOCUMENT >> 20:,} MiB: "
                "say where to cut it with --documents"
            )
    if held or (boundary.stays and is_last):
        yield offset, bytes(held)


def starts(stream: BinaryIO, size: int, boundary: Boundary, step: int) -> list[int]:
    """Return offsets, the first 0, where documents begin, ``step`` bytes or more apart.

    The documents between two of them are those that :func:`cut` finds there in the whole. Where
    separators run into each other ("\\n\\n\\n\\n") the cut depends on all that came before, so only
    those count that follow on a byte no separator holds.
    """
    found = [0]
    if boundary.pattern is not None:
        while (start := _start_after(stream, found[-1] + step, size, boundary)) is not None:
            found.append(start)
    return found


def _start_after(stream: BinaryIO, offset: int, size: int, boundary: Boundary) -> int | None:
    """Return where the first document begins whose separator begins behind ``offset``."""
    pattern = re.compile(boundary.pattern or b"")
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
