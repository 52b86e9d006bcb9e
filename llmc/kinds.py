"""What a file is, by its first bytes, whatever its name says; and how a reader becomes strict."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from llmc.errors import BadData, MissingOutput

Contents = TypeVar("Contents")
Error = TypeVar("Error", bound=Exception)
# Reads the file at a path, which messages call by a name, as far as it goes. Returns the contents,
# None if they cannot be used, and the problems, a sentence each. Raises OSError: it cannot be read.
Scan = Callable[[Path, str], tuple[Contents | None, list[str]]]

# What code raises that takes damaged values for whole ones.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
LONGEST_REASON = 300  # characters of another program's message
HEAD_BYTES = 4096  # the first bytes, by which a kind is recognized
CODECS = {"gzip": "gz", "zstd": "zst", "bzip2": "bz2", "xz": "xz"}  # of the compressed kinds

_STARTS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"GGUF", "gguf"),
    (b"PK\x03\x04", "zip"),
    (b"PAR1", "parquet"),
    (b"%PDF", "pdf"),
    (b"{\\rtf", "rtf"),
    (b"%!PS-", "postscript"),
    (b"ARROW1\0\0", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),  # a stream begins with a continuation mark
    (b"\x7fELF", "elf"),
    (b"\x93NUMPY", "npy"),
    (b"version https://git-lfs", "lfs"),
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\0", "image"),
    (b"MM\0*", "image"),
    (b"RIFF", "media"),
    (b"ID3", "media"),
    (b"OggS", "media"),
    (b"fLaC", "media"),
    (b"\0\0\0\x18ftyp", "media"),
    (b"\0\0\0\x20ftyp", "media"),
    (b"\xd0\xcf\x11\xe0", "office"),
    (b"7z\xbc\xaf", "archive"),
    (b"Rar!", "archive"),
    (b"SQLite format 3\0", "database"),
    *((bytes((0x80, protocol)), "pickle") for protocol in range(2, 6)),
)

# What to call a file of a kind that is not text.
TITLES = {
    "archive": "a 7z or RAR archive",
    "arrow": "an Arrow table",
    "bzip2": "bzip2-compressed data",
    "database": "an SQLite database",
    "elf": "a program",
    "empty": "an empty file",
    "gguf": "a GGUF model",
    "gzip": "gzip-compressed data",
    "html": "a web page",
    "image": "an image",
    "lfs": "a git-lfs pointer",
    "media": "audio, video or an image",
    "npy": "a NumPy array",
    "office": "an old Microsoft Office document: save it as .docx or .txt",
    "parquet": "a Parquet table",
    "pdf": "a PDF document",
    "pickle": "a Python pickle, as older PyTorch files are",
    "postscript": "a PostScript document",
    "rtf": "a rich-text document (RTF): save it as .docx or .txt",
    "tar": "a tar archive",
    "xz": "xz-compressed data",
    "zip": "a zip archive or an Office document",
    "zstd": "Zstandard-compressed data",
}


def kind_of_bytes(head: bytes) -> str:
    """Return the kind of a file that begins with ``head``.

    One of :data:`TITLES`, or ``json``, ``text`` and ``unknown``.
    """
    if not head:
        return "empty"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    shown = head.lstrip()[:20].lower()
    if shown.startswith((b"<!doctype html", b"<html")):
        return "html"
    if not is_text(head):
        return "unknown"
    return "json" if shown.startswith((b"{", b"[")) else "text"


def codec_of_bytes(head: bytes) -> str:
    """Return the codec of compressed data: ``gz``, ``zst``, ``bz2`` or ``xz``; else empty."""
    return CODECS.get(kind_of_bytes(head), "")


def is_text(head: bytes) -> bool:
    """Tell whether bytes are UTF-8 without control characters, apart from a character cut off."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)


def no_text(head: bytes) -> str | None:
    """Return what a file that begins with ``head`` is, if it cannot be text; else None.

    A text may begin with the letters of another kind, such as GGUF or BZh.
    """
    kind = kind_of_bytes(head)
    is_certain = kind in ("pdf", "rtf", "postscript") or (
        kind not in ("html", "empty") and not is_text(head)
    )
    return TITLES.get(kind) if is_certain else None


def not_data(head: bytes, name: str, *, page_is_fine: bool = False) -> str | None:
    """Return a sentence if ``head`` shows a file that stands in for the real one, else None.

    ``head`` is the first bytes of the file that messages call ``name``. With ``page_is_fine``, a
    web page may be the real file, for example a text.
    """
    kind = kind_of_bytes(head)
    if kind == "lfs":
        return f"{name} is a git-lfs pointer, not the file: run 'git lfs pull' in its repository"
    if kind == "html" and not page_is_fine:
        return f"{name} is a web page, not data: the download went wrong; download it again"
    return None


def read_strictly(
    scan: Scan[Contents],
    path: Path,
    name: str = "",
    *,
    missing: str = "",
    advice: str = "get it again",
) -> Contents:
    """Return what ``scan`` reads of a file, or raise the first problem that it finds.

    Args:
        scan: reads it.
        path: the file.
        name: how messages call the file; by default its path.
        missing: the message if there is no such file; by default it is an unreadable file.
        advice: what to do about an unreadable file.

    Raises:
        MissingOutput: there is no such file, and ``missing`` is given.
        BadData: the file cannot be read, or has a problem.
    """
    name = name or str(path)
    try:
        contents, problems = scan(path, name)
    except OSError as error:
        if missing and isinstance(error, FileNotFoundError):
            raise MissingOutput(missing) from error
        raise BadData(f"cannot read {name}: {error.strerror or error}; {advice}") from error
    if contents is None or problems:
        raise BadData(problems[0])
    return contents


def is_failure(error: BaseException) -> bool:
    """Tell whether a library failed on what it was given: a panic of Rust is no ``Exception``."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """Return the beginning of an error's message on one line: it may quote what a file holds."""
    return " ".join(str(error)[:LONGEST_REASON].split())


def unreadable_explained(what: Path | str, advice: str) -> AbstractContextManager[None]:
    """Turn an OSError of reading the file ``what`` into a BadData that ends in ``advice``."""

    def told(error: OSError) -> str:
        return f"{what}: {error.strerror or error}; {advice}"

    return _explained((OSError,), told)


def broken_explained(what: Path | str, advice: str) -> AbstractContextManager[None]:
    """Turn what reading a JSON file with missing or mistyped fields raises into a BadData."""

    def told(error: Exception) -> str:
        return f"{what} ({type(error).__name__}: {reason_of(error)}): {advice}"

    return _explained((*DAMAGE, OSError), told)


@contextmanager
def _explained(kinds: tuple[type[Error], ...], told: Callable[[Error], str]) -> Iterator[None]:
    """Turn errors of reading a file into one sentence."""
    try:
        yield
    except kinds as error:
        raise BadData(f"cannot read {told(error)}") from error
