"""Bytes that should be UTF-8, as text, a chunk at a time."""

from __future__ import annotations

import codecs

from llmc.errors import BadData

CHUNK = 1 << 20


class NotText(BadData):
    """Bytes that are not UTF-8, or hold a NUL, which no text does."""


class Decoder:
    """Turns chunks of bytes into text, wherever they were cut."""

    def __init__(self, name: str, offset: int = 0) -> None:
        """Begin with the byte that messages call ``offset`` of ``name``."""
        self._name = name
        self._read = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def text(self, chunk: bytes | bytearray, *, final: bool = False) -> str:
        """Return the next text; a character that is cut in two comes with the next chunk.

        Raises:
            NotText: the bytes are no text, or with ``final`` end inside a character.
        """
        waiting = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            place = self._read - waiting + error.start
            raise self._fault(f"byte {place:,} is 0x{error.object[error.start]:02x}") from error
        if (nul := chunk.find(b"\0")) >= 0:
            raise self._fault(f"byte {self._read + nul:,} is 0")
        self._read += len(chunk)
        return text

    def _fault(self, what: str) -> NotText:
        return NotText(f"{self._name} is not UTF-8 text ({what}): convert it, or leave it out")
