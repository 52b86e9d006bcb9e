"""How text is read: which files, split into which documents, which field of a record."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from llmc.errors import Usage
from llmc.fetch.compression import CODECS, TARS
from llmc.text.documents import FILE, RECORD, Boundary, boundary_named
from llmc.text.utf8 import UTF8

KEEP = "keep"  # of --newlines

# The format of a file by the suffix of its name, without that of the compression.
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".docx": "docx",
    ".pdf": "pdf",
    ".epub": "epub",
    ".ipynb": "ipynb",
    ".tar": "tar",
    ".zip": "zip",
}
ARCHIVES = frozenset({"tar", "zip"})
COLUMNAR = frozenset({"parquet", "arrow"})
RECORDS = COLUMNAR | {"jsonl", "json", "csv", "tsv"}  # --field names a field of theirs
PAGES = frozenset({"html", "docx", "pdf", "epub", "ipynb"})  # one document each
PACKED = frozenset({"zip", "parquet", "docx", "epub"})  # compressed inside
BINARY = COLUMNAR | {"docx", "pdf", "epub"}  # never read as plain text
# Of bytes in an encoding.
TEXTUAL = frozenset({"text", "jsonl", "json", "csv", "tsv", "html", "ipynb"})


@dataclass(frozen=True)
class Reading:
    """The options for reading text; by default every kind of file is read in its usual way."""

    # Patterns; of a folder, an archive or a repository only matching files are read.
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()  # patterns of files that are not read
    documents: str | None = None  # a name in ``documents.NAMED``, ``record`` or a separator
    # The field or column of a record that holds its text, or several: the first that a record has
    # is used. A path such as ``a.b`` or ``a[].content`` reaches nested ones.
    field: str | tuple[str, ...] | None = None
    encoding: str | None = None  # of text that is not UTF-8: Python's name, or ``auto``
    # ``keep`` leaves CR LF and CR as they are; by default they become LF.
    newlines: str | None = None
    any_ratio: bool = False  # compressed files may grow to any size

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that may hold a record's text, in order of preference; empty if not named."""
        return (self.field,) if isinstance(self.field, str) else self.field or ()

    @property
    def unix(self) -> bool:
        """Whether CR LF and CR become LF."""
        return self.newlines != KEEP

    def wants(self, name: str) -> bool:
        """Return whether the file at this path in a folder or archive is read.

        A pattern with a slash is matched with the path, any other with the name. ``exclude``
        matches folders too. Hidden files are never read.
        """
        return self.enters(name) and self.includes(name)

    def includes(self, name: str) -> bool:
        """Return whether ``include`` and ``exclude`` leave the file at this path."""
        path = PurePosixPath(name)
        if any(_matches(place, self.exclude) for place in (path, *path.parents)):
            return False
        return not self.include or _matches(path, self.include)

    def enters(self, folder: str) -> bool:
        """Return whether files below this path can be read."""
        path = PurePosixPath(folder)
        if any(part.startswith(".") and part not in (".", "..") for part in path.parts):
            return False
        return not any(_matches(place, self.exclude) for place in (path, *path.parents))

    def record(self) -> dict[str, Any]:
        """Return the options that are set, for the manifest."""
        options = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}
        # What a file may grow to changes no text that is read.
        return {key: value for key, value in options.items() if value and key != "any_ratio"}


@dataclass(frozen=True)
class Kind:
    """How a file is read."""

    format: str  # text, or a value of FORMATS
    codec: str = ""  # how it is compressed; empty if it is not
    boundary: Boundary | None = None  # where documents of a text end; None: its start decides
    encoding: str = UTF8  # of the bytes of a text
    # The column of a table; empty: its rows are conversations; None: its header decides.
    field: str | None = None


def kind_of(name: str, reading: Reading, *, outright: bool = True) -> Kind:
    """Return how a file of this name is read.

    A ``.json`` file that was found in a folder or an archive is plain text unless records are asked
    for, because most such files are settings; ``outright`` means that a person named it.

    Raises:
        Usage: the options do not fit this kind of file.
    """
    form, codec = _form_of(name)
    asked = reading.documents
    boundary = None if asked is None or asked == RECORD else boundary_named(asked)
    if form in ARCHIVES:
        return Kind(form, codec)
    if form in BINARY and boundary is not None:
        holds = "records" if form in RECORDS else "one document"
        raise Usage(f"{name} holds {holds}: --documents cannot be '{asked}' for it")
    if form in PAGES and asked == RECORD:
        raise Usage(f"{name} holds one document: --documents cannot be '{asked}' for it")
    if boundary is not None:
        return Kind("text", codec, boundary.unix() if reading.unix else boundary)
    if asked == RECORD and form == "text":
        return Kind("jsonl", codec)
    if form == "json" and not (outright or asked or reading.field):
        return Kind("text", codec, FILE)
    return Kind(form, codec)


def _form_of(name: str) -> tuple[str, str]:
    path = PurePosixPath(name.lower())
    if path.suffix in TARS:
        return "tar", TARS[path.suffix]
    codec = CODECS.get(path.suffix, "")
    suffix = PurePosixPath(path.stem).suffix if codec else path.suffix
    return FORMATS.get(suffix, "text"), codec


def _matches(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    whole = (pattern.rstrip("/") for pattern in patterns)
    return any(fnmatchcase(str(path) if "/" in p else path.name, p) for p in whole)
