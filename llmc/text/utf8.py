"""Decode UTF-8 a chunk at a time, and make text that it can encode."""

from __future__ import annotations

import codecs

from llmc.errors import BadData

CHUNK = 1 << 20


class NotText(BadData):
    """Bytes that are not UTF-8, or contain a NUL."""


class Decoder:
    """Decodes chunks of bytes that were split anywhere."""

    def __init__(self, name: str, offset: int = 0) -> None:
        """Start at the byte ``offset`` of the file that messages call ``name``."""
        self._name = name
        self._read = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def text(self, chunk: bytes | bytearray, *, final: bool = False) -> str:
        """Return the text of the next chunk; a split character comes with the chunk after it.

        Raises:
            NotText: the bytes are not text, or with ``final`` end inside a character.
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


def well_formed(text: str) -> str:
    """Return ``text`` with U+FFFD in place of unpaired surrogates, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
