"""Documents from records: JSON Lines and JSON, a chunk at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmc.errors import BadData
from llmc.text.documents import LINE, MAX_DOCUMENT, cut
from llmc.text.utf8 import well_formed

WHITESPACE = " \t\r\n"

# An error this close to the end of a chunk may be a word or an escape that continues.
UNFINISHED = 16


class _NoText(ValueError):
    """A record without the wanted field."""


def jsonl_documents(
    chunks: Iterable[bytes], field: str, name: str, lines_before: Callable[[], int] = int
) -> Iterator[str]:
    """Yield the documents of JSON Lines: a string, or an object with its text in ``field``.

    ``chunks`` are the lines, split anywhere. ``lines_before`` counts the lines of the file before
    them, for messages, which call the file ``name``.

    Raises:
        BadData: a line is not JSON or lacks the field.
    """
    for number, line in enumerate(cut(chunks, LINE, name), 1):
        if not line.strip():
            continue
        try:
            # Windows programs begin a file with a byte order mark.
            text = _text_of(json.loads(line.removeprefix("\ufeff") if number == 1 else line), field)
        except (ValueError, RecursionError) as error:
            where = f"{name}, line {number + lines_before():,}"
            raise BadData(f"{where}: {_fault_of(error)}") from error
        if text:
            yield well_formed(text)


def json_documents(chunks: Iterable[bytes], field: str, name: str) -> Iterator[str]:
    """Yield the documents of JSON: a list of strings or objects, or a sequence of them.

    Raises:
        BadData: it is not JSON, or an object lacks the field.
    """
    for number, value in enumerate(_JsonStream(chunks, name).values(), 1):
        try:
            text = _text_of(value, field)
        except _NoText as error:
            raise BadData(f"{name}, record {number:,}: {error}") from error
        if text:
            yield well_formed(text)


def _text_of(record: Any, field: str) -> str:
    """Return the text of a record: a string, or an object's ``field``; empty for null.

    Raises:
        _NoText: there is none; the message lists the fields.
    """
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise _NoText(f"a record must be an object or a string, not {_shown(record)}")
    if field not in record:
        there = ", ".join(f"'{key}'" for key in record) or "none"
        raise _NoText(f"no field '{field}': name one with --field (there: {there})")
    value = record[field]
    if value is not None and not isinstance(value, str):
        raise _NoText(f"the field '{field}' is {_shown(value)}, not text: name another --field")
    return value or ""


def _shown(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _fault_of(error: Exception | str) -> str:
    """Return what is wrong with a record, without the place."""
    if isinstance(error, _NoText):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        reason = error.msg.removesuffix(" at").removesuffix(" starting")
        reason = reason[0].lower() + reason[1:]
    elif isinstance(error, UnicodeDecodeError):
        reason = "not UTF-8"
    elif isinstance(error, RecursionError):
        reason = "nested too deep"
    else:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    return f"not JSON ({reason}); mend it or leave it out"


class _JsonStream:
    """The elements of a list, or a sequence of values, in a text too large to parse at once."""

    def __init__(self, chunks: Iterable[bytes], name: str) -> None:
        """Read the text from ``chunks``, split anywhere; messages call it ``name``."""
        self._name = name
        self._decoder = json.JSONDecoder()
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
                value, end = self._decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                is_open = error.msg.startswith("Unterminated string")
                near_end = error.pos > len(self._held) - UNFINISHED
                place = error.pos - self._at  # reading on moves the buffer
                if (is_open or near_end) and self._more():
                    continue
                self._at += place
                raise self._fault(error) from error
            except RecursionError as error:
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
