"""How text is read: which files, split into which documents, which field of a record."""

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
    """The options for reading text; by default every kind of file is read in its usual way.

    Attributes:
        include: patterns; of a folder, an archive or a repository only matching files are read.
        exclude: patterns of files that are not read.
        documents: a name in ``documents.NAMED``, ``record`` or a separator.
        field: the field or column of a record that holds its text.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    documents: str | None = None
    field: str | None = None

    def wants(self, name: str) -> bool:
        """Return whether the file at this path in a folder or archive is read.

        A pattern with a slash is matched with the path, any other with the name. ``exclude``
        matches folders too. Hidden files are never read.
        """
        if not self.enters(name):
            return False
        return not self.include or _matches(PurePosixPath(name), self.include)

    def enters(self, folder: str) -> bool:
        """Return whether files below this path can be read."""
        path = PurePosixPath(folder)
        if any(part.startswith(".") and part not in (".", "..") for part in path.parts):
            return False
        return not any(_matches(place, self.exclude) for place in (path, *path.parents))

    def record(self) -> dict[str, Any]:
        """Return the options that are set, for the manifest."""
        options = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}
        return {key: value for key, value in options.items() if value}


@dataclass(frozen=True)
class Kind:
    """How a file is read."""

    format: str  # text, jsonl, json, parquet or tar
    codec: str = ""  # how it is compressed; empty if it is not
    boundary: Boundary | None = None  # where documents of a text end; None: its start decides


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
    path = PurePosixPath(name.lower())
    if path.suffix in TARS:
        return "tar", TARS[path.suffix]
    codec = CODECS.get(path.suffix, "")
    suffix = PurePosixPath(path.stem).suffix if codec else path.suffix
    return FORMATS.get(suffix, "text"), codec


def _matches(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    whole = (pattern.rstrip("/") for pattern in patterns)
    return any(fnmatchcase(str(path) if "/" in p else path.name, p) for p in whole)
