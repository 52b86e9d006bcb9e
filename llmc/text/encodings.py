"""The encoding of a text: named by a person, by a byte order mark, or recognised."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from llmc.errors import Usage
from llmc.text.utf8 import CHUNK, UTF8, Decoder, NotText, escaped_encoding, wide_encoding

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

AUTO = "auto"
COMMON = (
    "utf-8",
    "utf-16",
    "latin-1",
    "cp1252",
    "cp1251",
    "gb18030",
    "shift_jis",
    "euc-kr",
    "big5",
)
# What auto recognises besides UTF-8, UTF-16 and UTF-32; those used most come first.
RECOGNISED = (
    *("cp1252", "cp1251", "cp1250", "cp932", "gb18030", "euc_jp", "big5", "cp949"),
    *("cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "iso8859_2"),
)
SIMILAR = 0.1  # disorder of a text, from 0 to 1, that does not tell encodings apart
LOOKED_AT = 1 << 16  # bytes by which an encoding is recognised
DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]{2,40})"""
    rb"""|\A\s*<\?xml[^>]{0,100}?\sencoding\s*=\s*["']([\w.:-]{2,40})""",
    re.IGNORECASE,
)
# What a browser reads where a page declares an encoding: https://encoding.spec.whatwg.org/#names-and-labels
BROWSERS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), UTF8),
}
MEND = "mend these bytes or convert the file, or name its --encoding"


def encoding_named(text: str) -> str:
    """Return Python's name of the encoding that ``--encoding`` names; ``auto`` is itself.

    Raises:
        Usage: there is no such encoding of text.
    """
    if text == AUTO:
        return AUTO
    try:
        codecs.getincrementaldecoder(text)
        if not isinstance(codecs.decode(b"", text), str):
            raise LookupError
        return codecs.lookup(text).name
    except (LookupError, TypeError, ValueError, UnicodeError):
        near = get_close_matches(text.lower(), COMMON, n=1) or COMMON
        raise Usage(
            f"--encoding cannot be '{text}': name one such as {', '.join(near)}, or {AUTO}"
        ) from None


def encoding_of(head: bytes, asked: str | None, name: str) -> str:
    """Return the encoding of a file that begins with ``head`` and is not known to be UTF-8.

    Args:
        head: its first bytes.
        asked: what ``--encoding`` asks for; None: UTF-8. With it, a byte order mark decides first.
        name: of the file, in messages.

    Raises:
        NotText: the encoding cannot be recognised.
    """
    if asked is None:
        return UTF8
    if head.startswith(codecs.BOM_UTF8):
        return UTF8
    marked = wide_encoding(head[:4])
    if marked in ("utf-16", "utf-32"):
        return marked
    if asked != AUTO:
        if asked in ("utf-16", "utf-32"):
            raise NotText(
                name,
                f"is not {asked} text (it has no byte order mark)",
                f"name {asked}-le or {asked}-be, or leave it out",
            )
        return asked
    return _recognised(head, name)


def _recognised(head: bytes, name: str) -> str:
    if escaped := escaped_encoding(head):
        return escaped
    if _is_utf8(head):
        return UTF8
    if wide := wide_encoding(head):
        return wide
    if _is_mostly_utf8(head):
        raise damaged_utf8(name)
    from charset_normalizer import from_bytes

    found = from_bytes(head[:LOOKED_AT], cp_isolation=list(RECOGNISED))
    best = found.best()
    if best is None or b"\0" in head:
        raise NotText(name, "is not text in an encoding that is recognised", "name its --encoding")
    # Some differ in a few letters: how well the text fits a language tells more than disorder.
    likely = [each for each in found if each.chaos <= best.chaos + SIMILAR]
    fit = max(likely, key=lambda each: (each.coherence, -min(map(_rank, _same(each)))))
    return codecs.lookup(min(_same(fit), key=_rank)).name


def _same(match: CharsetMatch) -> list[str]:
    """Return the encodings in which the text is the same."""
    return [match.encoding, *match.could_be_from_charset]


def _rank(encoding: str) -> int:
    return RECOGNISED.index(encoding) if encoding in RECOGNISED else len(RECOGNISED)


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder(UTF8)().decode(head, len(head) < CHUNK)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _is_mostly_utf8(head: bytes) -> bool:
    """Return whether at least half of what is not ASCII is UTF-8."""
    text = head.decode(UTF8, "replace")
    letters = sum(not each.isascii() for each in text)
    return letters > 0 and 2 * text.count("\ufffd") <= letters


def damaged_utf8(name: str) -> NotText:
    """Return the error for a text in UTF-8 with other bytes in it."""
    return NotText(name, "is UTF-8 text with some bytes that are not", MEND)


def declared_encoding(head: bytes) -> str:
    """Return the encoding that a web page declares; UTF-8 if it names none that exists.

    Labels mean what they mean to a browser.
    """
    match = DECLARED.search(head[:4096])
    try:
        named = encoding_named((match[1] or match[2]).decode()) if match else UTF8
    except Usage:
        return UTF8
    return BROWSERS.get(named, named)


def in_utf8(chunks: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Yield the text of ``chunks``, which are in ``encoding``, in UTF-8.

    Raises:
        NotText: the bytes are not such text.
    """
    if encoding == UTF8:
        yield from chunks
        return
    decoder = Decoder(name, encoding=encoding)
    for chunk in chunks:
        if text := decoder.text(chunk):
            yield text.encode(errors="surrogatepass")
    if text := decoder.text(b"", final=True):
        yield text.encode(errors="surrogatepass")
