"""How a person wants text to be read: which files, cut where, which field of a record."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from llmc.errors import Usage
from llmc.fetch.compression import CODECS, TARS
from llmc.text.documents import FILE, RECORD, Boundary, boundary_named

DEFAULT_FIELD = "text"

# The format of a file by the suffix of its name, without that of the compression.
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".tar": "tar",
}


@dataclass(frozen=True)
class Reading:
    """The wishes of a person; without any, every kind of file is read as is usual for it.

    Attributes:
        include: of a folder, an archive or a hub repository, only files that match one of these.
        exclude: none that match one of these.
        documents: what a document is: ``file``, ``line``, ``record``, ``blank-line``,
            ``endoftext`` or a separator.
        field: the field or column of a record that holds its text.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    documents: str | None = None
    field: str | None = None

    def wants(self, name: str) -> bool:
        """Tell whether a file of a folder or archive is to be read, by its path in there.

        A pattern with a slash is held against the path, another against the name. ``exclude``
        takes the name of a folder too. Hidden files are never text.
        """
        if not self.enters(name):
            return False
        return not self.include or _matches(PurePosixPath(name), self.include)

    def enters(self, folder: str) -> bool:
        """Tell whether there can be wanted files in a folder, by its path in the whole."""
        path = PurePosixPath(folder)
        if any(part.startswith(".") and part not in (".", "..") for part in path.parts):
            return False
        return not any(_matches(place, self.exclude) for place in (path, *path.parents))

    def record(self) -> dict[str, Any]:
        """Return what the manifest says of it: the wishes that there are."""
        wishes = {
            "include": list(self.include),
            "exclude": list(self.exclude),
            "documents": self.documents,
            "field": self.field,
        }
        return {key: value for key, value in wishes.items() if value}


@dataclass(frozen=True)
class Kind:
    """How a file is read.

    Attributes:
        format: ``text``, ``jsonl``, ``json``, ``parquet`` or ``tar``.
        codec: how it is compressed; empty: not at all.
        boundary: where the documents of a text end; None: its first bytes decide.
    """

    format: str
    codec: str = ""
    boundary: Boundary | None = None


def kind_of(name: str, reading: Reading, *, outright: bool = True) -> Kind:
    """Tell from its name how a file is read.

    A ``.json`` that was found in a folder or an archive rather than named outright is a text like
    any other unless records are asked for: most of them are settings.

    Raises:
        Usage: the wishes do not fit this kind of file.
    """
    form, codec = _form_of(name)
    asked = reading.documents
    boundary = None if asked is None or asked == RECORD else boundary_named(asked)
    if form == "parquet" and boundary is not None:
        raise Usage(f"{name} holds records: --documents cannot be '{asked}' for it")
    if form == "tar":
        return Kind(form, codec)
    if boundary is not None:
        return Kind("text", codec, boundary)
    if asked == RECORD and form == "text":
        return Kind("jsonl", codec)
    if form == "json" and not (outright or asked or reading.field):
        return Kind("text", codec, FILE)
    return Kind(form, codec)


def _form_of(name: str) -> tuple[str, str]:
    """Return the format and the codec of a file of this name."""
    path = PurePosixPath(name.lower())
    if path.suffix in TARS:
        return "tar", TARS[path.suffix]
    codec = CODECS.get(path.suffix, "")
    suffix = PurePosixPath(path.stem).suffix if codec else path.suffix
    return FORMATS.get(suffix, "text"), codec


def _matches(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    whole = (pattern.rstrip("/") for pattern in patterns)
    return any(fnmatchcase(str(path) if "/" in p else path.name, p) for p in whole)
