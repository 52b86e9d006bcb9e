"""Documents from records: JSON Lines and JSON, a chunk at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from llmc.errors import BadData
from llmc.parsing import record_from_json
from llmc.text.conversations import document_of
from llmc.text.documents import LINE, MAX_DOCUMENT, cut
from llmc.text.fields import NoField, NoText
from llmc.text.utf8 import Decoder, well_formed

WHITESPACE = " \t\r\n"

# An error this close to the end of a chunk may be a word or an escape that continues.
UNFINISHED = 16


def jsonl_documents(
    chunks: Iterable[bytes], fields: Sequence[str], name: str, lines_before: Callable[[], int] = int
) -> Iterator[str]:
    """Yield the documents of JSON Lines: strings, or objects with a text or a conversation.

    ``chunks`` are the lines, split anywhere. ``lines_before`` counts the lines of the file before
    them, for messages, which call the file ``name``.

    Raises:
        BadData: a line is not JSON or lacks the field.
    """
    for number, line in enumerate(cut(chunks, LINE, name, decoder=Decoder(name, unix=True)), 1):
        if not line.strip():
            continue
        try:
            text = document_of(record_from_json(line)[0], fields)
        except NoText as error:
            raise NoField(f"{name}, line {number + lines_before():,}: {error}") from error
        except ValueError as error:
            where = f"{name}, line {number + lines_before():,}"
            raise BadData(f"{where}: {_fault_of(error)}") from error
        if text:
            yield well_formed(text)


def json_documents(chunks: Iterable[bytes], fields: Sequence[str], name: str) -> Iterator[str]:
    """Yield the documents of JSON: a list of strings or objects, or a sequence of them.

    Raises:
        BadData: it is not JSON, or an object lacks the field.
    """
    for number, value in enumerate(_JsonStream(chunks, name).values(), 1):
        try:
            text = document_of(value, fields)
        except NoText as error:
            raise NoField(f"{name}, record {number:,}: {error}") from error
        if text:
            yield well_formed(text)


def is_one_json(head: bytes) -> bool:
    """Return whether what is called JSON Lines is one JSON text over several lines.

    ``head`` is its first bytes. It is a list, or its first value does not end on its line.
    """
    start = head.lstrip()
    if start.startswith(b"["):
        return True
    first, end, rest = start.partition(b"\n")
    if not (start.startswith(b"{") and end and rest.strip()):
        return False
    try:
        record_from_json(first.decode())
    except json.JSONDecodeError as error:
        return error.pos >= len(first.decode(errors="replace").rstrip())
    except ValueError:
        return False
    return False


def _fault_of(error: Exception | str) -> str:
    """Return what is wrong with a record, without the place."""
    if isinstance(error, json.JSONDecodeError):
        reason = error.msg.removesuffix(" at").removesuffix(" starting")
        reason = reason[0].lower() + reason[1:]
    elif isinstance(error, UnicodeDecodeError):
        reason = "not UTF-8"
    else:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    return f"not JSON ({reason}); mend it or leave it out"


class _JsonStream:
    """The elements of a list, or a sequence of values, in ``chunks`` too large to parse at once."""

    def __init__(self, chunks: Iterable[bytes], name: str) -> None:
        self._name = name
        self._chunks = codecs.iterdecode(chunks, "utf-8-sig")
        self._held = ""
        self._at = 0
        self._lines = 0  # before what is held

    def values(self) -> Iterator[Any]:
        """Yield the values; one of them and as much text again are in memory.

        Raises:
            BadData: it is not JSON, or a value is larger than ``MAX_DOCUMENT``.
        """
        if self._next_letter() != "[":
            while self._next_letter():
                yield self._value()
            return
        self._at += 1
        while self._next_letter() != "]":
            yield self._value()
            if self._next_letter() == ",":
                self._at += 1
            elif self._next_letter() != "]":
                raise self._fault("a comma is missing")
        self._at += 1
        if self._next_letter():
            raise self._fault("there is more after the list")

    def _next_letter(self) -> str:
        """Go to the next character that is not white space and return it; empty at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in WHITESPACE:
                self._at += 1
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def _value(self) -> Any:
        while True:
            try:
                value, end = record_from_json(self._held, self._at)
            except json.JSONDecodeError as error:
                is_open = error.msg.startswith("Unterminated string")
                near_end = error.pos > len(self._held) - UNFINISHED
                place = error.pos - self._at  # reading on moves the buffer
                if (is_open or near_end) and self._more():
                    continue
                self._at += place
                raise self._fault(error) from error
            except ValueError as error:
                raise self._fault(error) from error
            # A number at the end of the buffer may continue.
            if end == len(self._held) and self._more():
                continue
            self._at = end
            return value

    def _more(self) -> bool:
        """Read more; False at the end.

        It doubles the buffer, so that a huge value is not parsed once per chunk.
        """
        pieces = [self._held[self._at :]]
        missing = max(1, len(pieces[0]))
        try:
            while missing > 0 and (chunk := next(self._chunks, None)) is not None:
                pieces.append(chunk)
                missing -= len(chunk)
        except UnicodeDecodeError as error:
            raise self._fault(error) from error
        self._lines += self._held.count("\n", 0, self._at)
        self._held, self._at = "".join(pieces), 0
        if len(self._held) > MAX_DOCUMENT:
            raise BadData(f"{self._name} holds a value of more than {MAX_DOCUMENT >> 20:,} MiB")
        return len(pieces) > 1

    def _fault(self, error: Exception | str) -> BadData:
        line = self._lines + self._held.count("\n", 0, self._at) + 1
        return BadData(f"{self._name}, line {line:,}: {_fault_of(error)}")
