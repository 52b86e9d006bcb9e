"""Text by name or by path: name -> source -> a stream of documents.

A document is what stands between two ``<|endoftext|>`` tokens. Registered names are
``tinyshakespeare`` and ``tinystories``, which ``llmc fetch`` brings into the workspace, and
``stdlib``, the sources of the running Python's standard library; anything else is a path.
"""

from __future__ import annotations

import glob
import hashlib
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llmc.config import nearest
from llmc.download import file_sha256
from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import Workspace
from llmc.tokenizers import ENDOFTEXT

CHUNK_CHARACTERS = 1 << 20
VAL_FRACTION = 0.1


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset: its name, where it is, and its SHA-256 where one is known.

    Attributes:
        name: what it is called in ``data/<dataset>/``.
        url: an HTTPS address, or None for a file of the dataset's hub repository.
        sha256: what the content must be, in hexadecimal.
    """

    name: str
    url: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset that can be fetched: its files, and the hub repository of those without a URL."""

    name: str
    files: tuple[RemoteFile, ...]
    hub: str = ""


TINYSHAKESPEARE = Dataset(
    "tinyshakespeare",
    (
        RemoteFile(
            "tinyshakespeare.txt",
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
)
TINYSTORIES = Dataset(
    "tinystories",
    (RemoteFile("TinyStoriesV2-GPT4-train.txt"), RemoteFile("TinyStoriesV2-GPT4-valid.txt")),
    hub="roneneldan/TinyStories",
)
HELLASWAG = Dataset(
    "hellaswag",
    (
        RemoteFile(
            "hellaswag_val.jsonl",
            "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
            "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
        ),
    ),
)
FETCHED = {dataset.name: dataset for dataset in (TINYSHAKESPEARE, TINYSTORIES)}
STDLIB = "stdlib"
NAMES = (*FETCHED, STDLIB)
# Fetched like a dataset, but it is questions, which nobody trains on.
EVALUATIONS = {HELLASWAG.name: HELLASWAG}

# llm.c's split: the first 32,768 tokens validate, the rest trains.
TINYSHAKESPEARE_VAL_TOKENS = 32768

# Installed packages, tests, and what no person wrote as code: generated tables of character sets,
# the manual as one string.
STDLIB_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    | {"encodings", "pydoc_data"}
)


@dataclass(frozen=True)
class Part:
    """A piece of a text that can be read by itself, by another process or on another machine.

    Attributes:
        name: what it is called in messages.
        bytes: its size where it is stored, for progress; None where that is not known.
        read: makes a fresh iterator over its documents, as often as it is called. It can be
            pickled, and gives the same documents every time.
    """

    name: str
    bytes: int | None
    read: Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Source:
    """Text ready to be tokenized.

    Attributes:
        name: the dataset's name, that of its folder under ``data/``.
        parts: the text, in order.
        records: what the manifest says about the text's origin.
        val_parts: the text to validate on, where the dataset has one of its own.
        val_tokens: the default size of the validation split in tokens; None: ``VAL_FRACTION``.
        skipped: files passed over because they are empty or not UTF-8 text.
    """

    name: str
    parts: tuple[Part, ...]
    records: tuple[dict[str, Any], ...]
    val_parts: tuple[Part, ...] | None = None
    val_tokens: int | None = None
    skipped: int = field(default=0, compare=False)

    @property
    def total_bytes(self) -> int | None:
        """The size of all parts; None where that of one is not known."""
        sizes = [part.bytes for part in (*self.parts, *(self.val_parts or ()))]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def documents_of(parts: Iterable[Part]) -> Iterator[str]:
    """Yield the documents of all parts, in order."""
    for part in parts:
        yield from part.read()


def open_source(workspace: Workspace, inputs: list[str]) -> Source:
    """Return the text that ``inputs`` name: one registered name, or paths and glob patterns.

    Raises:
        Usage: an input is neither a name nor a path, or names and paths are mixed.
        MissingOutput: the dataset has not been fetched.
        BadData: a file cannot be read or is not UTF-8, or there is no text.
    """
    if len(inputs) > 1 and (named := [name for name in inputs if name in NAMES]):
        raise Usage(f"'{named[0]}' is a dataset: tokenize it alone, other text with another --out")
    if inputs == [STDLIB]:
        return _stdlib_source()
    if inputs == [TINYSHAKESPEARE.name]:
        return _tinyshakespeare_source(workspace)
    if inputs == [TINYSTORIES.name]:
        return _tinystories_source(workspace)
    return _path_source(inputs)


def fetched_files(workspace: Workspace, dataset: Dataset) -> list[Path]:
    """Return the dataset's files in the workspace.

    Raises:
        MissingOutput: one is not there.
    """
    paths = [workspace.data / dataset.name / file.name for file in dataset.files]
    for path in paths:
        if not path.is_file():
            raise MissingOutput(
                f"{workspace.shown(path)} is not there: run 'llmc fetch {dataset.name}' first"
            )
    return paths


def stdlib_folder() -> Path:
    """Return the folder of the running Python's standard library.

    Raises:
        BadData: this Python comes without its sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "os.py").is_file():
        raise BadData(
            f"this Python has no sources of its standard library in {folder}: "
            "use another Python, or other text"
        )
    return folder


def _stdlib_source() -> Source:
    folder = stdlib_folder()
    found = [
        path
        for path in folder.rglob("*.py")
        if STDLIB_SKIPPED.isdisjoint(path.relative_to(folder).parts)
    ]

    def shuffled(path: Path) -> bytes:
        # The order of hashes mixes the modules, is the same everywhere, and hardly changes when
        # Python gains or loses a module.
        return hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()

    return _files_source(STDLIB, sorted(found, key=shuffled), folder, {"name": STDLIB})


def _tinyshakespeare_source(workspace: Workspace) -> Source:
    (path,) = fetched_files(workspace, TINYSHAKESPEARE)
    record = _record(path)
    if record["sha256"] != TINYSHAKESPEARE.files[0].sha256:
        raise BadData(
            f"{workspace.shown(path)} is not tinyshakespeare (its SHA-256 is {record['sha256']}): "
            "run 'llmc fetch tinyshakespeare --force'"
        )
    return Source(
        name=TINYSHAKESPEARE.name,
        parts=(Part(path.name, record["bytes"], partial(_blank_line_file, path)),),
        records=(record,),
        val_tokens=TINYSHAKESPEARE_VAL_TOKENS,
    )


def _tinystories_source(workspace: Workspace) -> Source:
    train, val = fetched_files(workspace, TINYSTORIES)
    records = (_record(train), _record(val))
    return Source(
        name=TINYSTORIES.name,
        parts=(Part(train.name, records[0]["bytes"], partial(separated_documents, train)),),
        val_parts=(Part(val.name, records[1]["bytes"], partial(separated_documents, val)),),
        records=records,
    )


def _path_source(inputs: list[str]) -> Source:
    """Return the text files that paths, folders and glob patterns name; folders come sorted.

    A single file must be text; among several, those that are not are passed over.
    """
    found: dict[Path, None] = {}
    first: Path | None = None
    for text in inputs:
        path = Path(text)
        is_pattern = not path.exists() and any(character in text for character in "*?[")
        if path.is_dir():
            matches = _files_beneath(path)
        elif path.is_file():
            matches = [path]
        elif is_pattern:
            # Path.glob cannot take an absolute pattern.
            names = sorted(glob.glob(text, recursive=True))  # noqa: PTH207
            matches = [Path(name) for name in names if Path(name).is_file()]
        else:
            raise Usage(f"no dataset, file or folder '{text}'{nearest(text, list(NAMES))}")
        if not matches:
            raise BadData(f"there are no files in {text}: name a file or folder that holds text")
        first = first or (matches[0].parent if is_pattern else path)
        found |= dict.fromkeys(matches)
    if first is None:
        raise Usage("name a dataset, or files, folders or patterns of text")
    name = (first.resolve().stem if first.is_file() else first.resolve().name) or "text"
    if len(inputs) > 1:
        name = f"{name}-and-{len(inputs) - 1}-more"
    if len(found) == 1:
        (path,) = found
        _read_text(path)
        record = {"path": str(path.resolve()), **_record(path)}
        del record["name"]
        return Source(name, (_whole_file(path, record["bytes"]),), (record,))
    where = str(first.resolve()) if len(inputs) == 1 else ", ".join(inputs)
    return _files_source(name, list(found), Path(), {"path": where})


def _files_source(name: str, files: list[Path], root: Path, origin: dict[str, Any]) -> Source:
    """Return a source of one document per file, those passed over that are not UTF-8 text."""
    combined = hashlib.sha256()
    parts = []
    for path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadData(f"cannot read {path}: {error.strerror}; leave it out") from error
        if not data or _decoded(data) is None:
            continue
        parts.append(_whole_file(path, len(data)))
        shown = path.relative_to(root) if root.parts else path
        digest = hashlib.sha256(data).hexdigest()
        combined.update(f"{digest}  {shown.as_posix()}\n".encode())
    if not parts:
        raise BadData(f"none of the {len(files)} files of '{name}' is UTF-8 text: name others")
    total = sum(part.bytes or 0 for part in parts)
    record = {**origin, "files": len(parts), "bytes": total, "sha256": combined.hexdigest()}
    return Source(name, tuple(parts), (record,), skipped=len(files) - len(parts))


def _whole_file(path: Path, size: int) -> Part:
    """Return a part that is one document."""
    return Part(str(path), size, partial(_one_document, path))


def _one_document(path: Path) -> Iterator[str]:
    yield _read_text(path)


def _blank_line_file(path: Path) -> Iterator[str]:
    return blank_line_documents(_read_text(path))


def blank_line_documents(text: str) -> Iterator[str]:
    """Yield ``text`` cut after every blank line; the newlines stay with the document before."""
    *documents, last = text.split("\n\n")
    for document in documents:
        yield document + "\n\n"
    yield last


def separated_documents(path: Path) -> Iterator[str]:
    """Yield the documents between ``<|endoftext|>`` lines of a file, stripped, a part at a time.

    Raises:
        BadData: the file cannot be read or is not UTF-8.
    """
    rest = ""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for part in iter(partial(file.read, CHUNK_CHARACTERS), ""):
                *whole, rest = (rest + part).split(ENDOFTEXT)
                yield from (text for document in whole if (text := document.strip()))
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"cannot read {path}: {error}; fetch it again with --force") from error
    if text := rest.strip():
        yield text


def _files_beneath(folder: Path) -> list[Path]:
    """Return the files beneath ``folder``, sorted; hidden ones (.git and the like) are not text."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def _record(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _read_text(path: Path) -> str:
    """Read a whole document, its newlines as they are.

    Raises:
        BadData: the file cannot be read or is not UTF-8 text.
    """
    try:
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}; name another file") from error
    if text is None:
        raise BadData(f"{path} is not UTF-8 text: convert it, or leave it out")
    return text


def _decoded(data: bytes) -> str | None:
    """Return the text, or None where the bytes are not UTF-8 or hold a NUL, which no text does."""
    try:
        return None if b"\0" in data else data.decode("utf-8")
    except UnicodeDecodeError:
        return None
