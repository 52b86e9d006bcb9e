"""Decode text a chunk at a time, and make text that UTF-8 can encode."""

from __future__ import annotations

import codecs
import io

from llmc.errors import BadData

CHUNK = 1 << 20
MARK = "\ufeff"  # the byte order mark, as a character
UTF8 = "utf-8"
LAST_PLANE = 0x10  # of Unicode
LEAVE = "leave it out"  # where nothing else can be done about a file


class Unreadable(BadData):
    """A file that cannot be read as text.

    Attributes:
        reason: what is wrong with it and what to do, as a sentence without the file's name.
    """

    def __init__(self, name: str, reason: str, advice: str) -> None:
        super().__init__(f"{name} {reason}: {advice}")
        self.reason = reason if advice == LEAVE else f"{reason}: {advice}"


class NotText(Unreadable):
    """Bytes that are not text in their encoding, or contain a NUL."""


class Decoder:
    """Decodes chunks of bytes that were split anywhere, without the byte order mark."""

    def __init__(
        self, name: str, offset: int = 0, encoding: str = UTF8, *, unix: bool = False
    ) -> None:
        """Start at the byte ``offset`` of the file that messages call ``name``.

        With ``unix``, the line ends CR LF and CR become LF.
        """
        self._name = name
        self._read = offset
        self._is_start = offset == 0
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ends_in_cr = False
        self._newlines = io.IncrementalNewlineDecoder(None, translate=True) if unix else None

    @property
    def changed(self) -> bool:
        """Whether line ends were changed so far."""
        ends = self._newlines.newlines if self._newlines is not None else None
        return ends is not None and ends != "\n"

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
            found = error.object[error.start : error.start + 1]
            what = f"is 0x{found.hex()}" if found else "is missing"
            raise self._fault(f"byte {place:,} {what}", chunk) from error
        except UnicodeError as error:  # of a few codecs, which do not say where
            raise self._fault(str(error), chunk) from error
        nul = chunk.find(b"\0") if self._encoding == UTF8 else text.find("\0")
        if nul >= 0:
            raise self._fault(f"byte {self._read + nul:,} is 0", chunk)
        if self._is_start and text:
            text = text.removeprefix(MARK)
            self._is_start = False
        self._read += len(chunk)
        # Most chunks have no CR, and the one before did not end in one.
        if self._newlines is None or not (self._ends_in_cr or b"\r" in chunk):
            return text
        self._ends_in_cr = text.endswith("\r") if text else self._ends_in_cr
        return self._newlines.decode(text, final)

    def _fault(self, what: str, chunk: bytes | bytearray) -> NotText:
        shown = "UTF-8" if self._encoding == UTF8 else self._encoding
        wide = wide_encoding(chunk) if self._encoding == UTF8 and self._read == 0 else ""
        if wide:
            what = f"{what}; it looks like {wide.upper()}"
        advice = f"name its --encoding, such as {wide or 'cp1252'}, or auto, or convert it"
        is_binary = not wide and b"\0" in chunk
        return NotText(self._name, f"is not {shown} text ({what})", LEAVE if is_binary else advice)


def wide_encoding(head: bytes | bytearray) -> str:
    """Return the encoding of text in 16 or 32 bits a character that begins so; else empty.

    A byte order mark says so, or the zeros of mostly Latin letters.
    """
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    fours = bytes(head[: len(head[:512]) & ~3])
    for name, order in (("utf-32-le", (0, 1, 2, 3)), ("utf-32-be", (3, 2, 1, 0))):
        letters, higher, planes, zeros = (fours[at::4] for at in order)
        is_letter = all(low or high for low, high in zip(letters, higher, strict=True))
        if len(letters) > 1 and not any(zeros) and max(planes) <= LAST_PLANE and is_letter:
            return name
    pairs = bytes(head[: 512 & ~1])
    low, high = pairs[::2], pairs[1::2]
    for name, letters, zeros in (("utf-16-le", low, high), ("utf-16-be", high, low)):
        if len(letters) > 1 and 0 not in letters and zeros.count(0) > len(zeros) // 2:
            return name
    return ""


def escaped_encoding(chunk: bytes | bytearray) -> str:
    """Return the encoding in 7 bits whose escape sequences a text has; else empty."""
    if b"\x1b$" not in chunk:
        return ""
    if b"\x1b$)C" in chunk:
        return "iso2022_kr"
    return "iso2022_jp" if b"\x1b$B" in chunk or b"\x1b$@" in chunk else ""


def unix_text(text: str) -> str:
    """Return ``text`` with LF for the line ends CR LF and CR."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def as_read(text: str, *, unix: bool = True) -> str:
    """Return a prompt as a text is read: without a byte order mark, and with ``unix`` with LF."""
    text = text.removeprefix(MARK)
    return unix_text(text) if unix else text


def well_formed(text: str) -> str:
    """Return ``text`` with U+FFFD in place of unpaired surrogates, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
