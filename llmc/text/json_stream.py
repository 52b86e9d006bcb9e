"""Parse a JSON text that is too large to parse at once, value by value."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from llmc.errors import BadData
from llmc.text.documents import MAX_DOCUMENT

WHITESPACE = " \t\r\n"

# An error this close to the end of a chunk may be a word or an escape that continues.
UNFINISHED = 16


def json_reason(error: json.JSONDecodeError) -> str:
    """Return what is wrong, without the place."""
    reason = error.msg.removesuffix(" at").removesuffix(" starting")
    return reason[0].lower() + reason[1:]


class JsonStream:
    """The elements of a list, or a sequence of values."""

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
                raise self._fault(json_reason(error)) from error
            except RecursionError as error:
                raise self._fault("nested too deep") from error
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
            raise self._fault("not UTF-8") from error
        self._lines += self._held.count("\n", 0, self._at)
        self._held, self._at = "".join(pieces), 0
        if len(self._held) > MAX_DOCUMENT:
            raise BadData(f"{self._name} holds a value of more than {MAX_DOCUMENT >> 20:,} MiB")
        return len(pieces) > 1

    def _fault(self, reason: str) -> BadData:
        line = self._lines + self._held.count("\n", 0, self._at) + 1
        return BadData(f"{self._name}, line {line:,}: not JSON ({reason}); mend it or leave it out")
