"""Write token streams as the shards of a dataset; an interruption costs at most one shard.

Shards are written in a hidden folder inside the dataset's. A journal there lists the finished
shards and where in the source they end; it is replaced atomically after each shard. Only a complete
dataset is linked into place, the manifest last.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import BadData
from llmc.paths import link_or_copy, written_whole
from llmc.tokens import manifest as manifests
from llmc.tokens.files import TokenFile, payload_sha256, read_tokens, write_tokens
from llmc.tokens.manifest import Manifest, Shard, Split, shard_names
from llmc.tokens.pipeline import Feed, Position, Stream
from llmc.tokens.split import MIN_TOKENS, SLICE, Cut, too_little
from llmc.tokens.tokenizer import RECORD_FILE, TOKENIZER_FILE, Tokenizer, save_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCRATCH = ".tokenizing"
JOURNAL = "journal.json"
JOURNAL_FORMAT = 1
SHARD_TOKENS = 100_000_000  # as llm.c's FineWeb script cuts
OUR_FILES = re.compile(r"(train|val)(_\d{6,})?\.bin")


@dataclass
class StreamState:
    """How much of a token stream is written.

    Attributes:
        files: the finished shards, in the scratch folder.
        position: where in the source they end.
        text_bytes: the bytes of the source before that.
        complete: the stream has ended.
    """

    files: list[TokenFile] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    text_bytes: int = 0
    complete: bool = False


class Scratch:
    """The hidden folder in which a dataset is written, and its journal.

    Attributes:
        folder: the hidden folder.
        streams: the state of each stream, ``train`` and ``val``.
        resumed: the number of tokens kept from an interrupted call.
        foreign: an interrupted call's files were discarded: they were made from other inputs.
    """

    def __init__(self, place: Path, key: str) -> None:
        """Resume from the files of an interrupted call in ``place`` that has the same ``key``."""
        self.folder = place / SCRATCH
        self.key = key
        self.streams: dict[str, StreamState] = {}
        self.foreign = False
        if self.folder.is_dir():
            self.foreign = not self._load()
            self._remove_unfinished()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resumed = sum(file.tokens for state in self.streams.values() for file in state.files)

    def stream(self, name: str) -> StreamState:
        """Return the state of a stream; a new one is empty."""
        return self.streams.setdefault(name, StreamState())

    def save(self) -> None:
        """Write the journal.

        Raises:
            BadData: the disk is full.
        """
        streams = {
            name: {
                "files": [
                    {"file": file.path.name, "tokens": file.tokens, "sha256": file.sha256}
                    for file in state.files
                ],
                "position": asdict(state.position),
                "text_bytes": state.text_bytes,
                "complete": state.complete,
            }
            for name, state in self.streams.items()
        }
        journal = {"format": JOURNAL_FORMAT, "key": self.key, "stages": streams}
        with written_whole(self.folder / JOURNAL) as partial:
            partial.write_text(json.dumps(journal, indent=1) + "\n", encoding="utf-8")

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep_finished(self) -> None:
        """After a failure, keep the finished shards and the journal and remove everything else."""
        if any(state.files for state in self.streams.values()):
            self._remove_unfinished()
        else:
            self.discard()

    def _load(self) -> bool:
        """Read the journal; return False if its key is another or a file is damaged."""
        try:
            journal = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
            if (journal["format"], journal["key"]) != (JOURNAL_FORMAT, self.key):
                return False
            streams = {}
            for name, stage in journal["stages"].items():
                files = [
                    TokenFile(self.folder / file["file"], file["tokens"], file["sha256"])
                    for file in stage["files"]
                ]
                position = Position(**stage["position"])
                streams[name] = StreamState(files, position, stage["text_bytes"], stage["complete"])
                for file in files:
                    if len(read_tokens(file.path)) != file.tokens:
                        return False
                    if payload_sha256(file.path) != file.sha256:
                        return False
        except FileNotFoundError:
            return True  # interrupted before its first shard
        except (OSError, ValueError, TypeError, KeyError, AttributeError, BadData):
            return False
        self.streams = streams
        return True

    def _remove_unfinished(self) -> None:
        """Remove all files that the journal does not list."""
        known = {file.path.name for state in self.streams.values() for file in state.files}
        for path in self.folder.iterdir():
            if path.name not in known and (path.name != JOURNAL or not self.streams):
                path.unlink()


@contextmanager
def scratch_for(place: Path, key: str) -> Iterator[Scratch]:
    """Lock a dataset's folder and yield its scratch folder.

    If the block fails, finished shards stay for the next call.

    Raises:
        BadData: another process is writing this dataset, or the folder cannot be written.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            scratch = Scratch(place, key)
            try:
                yield scratch
            except BaseException:
                scratch.keep_finished()
                raise
            scratch.discard()
    except OSError as error:
        if error.filename is not None and not _beneath(place, error.filename):
            raise
        raise BadData(
            f"cannot write the dataset {place}: {error.strerror}; choose another --out"
        ) from error
    finally:
        with suppress(OSError):
            place.rmdir()  # still empty: the call failed


def _beneath(place: Path, name: object) -> bool:
    return isinstance(name, str) and Path(name).is_relative_to(place)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when the process ends."""
    handle = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadData(
                f"another llmc is writing {place}: wait for it, or choose another --out"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def write_stream(
    scratch: Scratch,
    name: str,
    feed: Feed,
    *,
    vocab_size: int,
    shard_tokens: int,
    workers: int,
    advance: Callable[[int], object],
) -> StreamState:
    """Write a stream's tokens in shards, after those that are finished.

    Raises:
        LlmcError: what reading the source raises; the disk is full.
    """
    state = scratch.stream(name)
    if state.complete:
        return state
    stream = Stream(feed, state.position, workers, advance)
    before = state.text_bytes
    try:
        while not state.complete:
            path = scratch.folder / f"{name}_{len(state.files) + 1:06}.bin"
            made = write_tokens(path, stream.take(shard_tokens), vocab_size)
            state.complete = not stream.more()
            if made.tokens:
                state.files.append(made)
            else:
                path.unlink()
            state.position = stream.position
            state.text_bytes = before + (
                stream.all_text_bytes if state.complete else stream.text_bytes
            )
            scratch.save()
    finally:
        stream.close()
    return state


def cut_stream(
    scratch: Scratch, files: Sequence[TokenFile], cut: Cut, tokenizer: Tokenizer
) -> tuple[list[TokenFile], list[TokenFile]]:
    """Return the validation files and the training files; at most one of ``files`` is rewritten.

    Raises:
        BadData: a file is broken, or the disk is full.
    """
    at = cut.at(files, tokenizer.eot)
    val: list[TokenFile] = []
    train: list[TokenFile] = []
    for file in files:
        if at >= file.tokens:
            val.append(file)
        elif at > 0:
            ends = ((val, "val", 0, at), (train, "train", at, file.tokens))
            for split, name, start, end in ends:
                path = scratch.folder / f"cut_{name}.bin"
                slices = _slices(file.path, start, end)
                split.append(write_tokens(path, slices, tokenizer.vocab_size))
        else:
            train.append(file)
        at = max(0, at - file.tokens)
    return val, train


def _slices(path: Path, start: int, end: int) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    # A new map for each slice: pages that were read count as this process's memory.
    return (read_tokens(path)[at : min(at + SLICE, end)] for at in range(start, end, SLICE))


def check_enough(
    scratch: Scratch, name: str, train: Sequence[TokenFile], val: Sequence[TokenFile]
) -> None:
    """Check that both splits have tokens; if not, forget the finished shards.

    Raises:
        BadData: a split is empty.
    """
    counts = [sum(file.tokens for file in files) for files in (train, val)]
    if min(counts) < MIN_TOKENS:
        scratch.streams.clear()
        raise too_little(name, *counts)


def publish(
    made: Manifest,
    tokenizer: Tokenizer,
    *,
    train: Sequence[TokenFile],
    val: Sequence[TokenFile],
) -> Manifest:
    """Link token files into ``made.folder`` and write the tokenizer's file and the manifest.

    Args:
        made: the manifest without its splits.
        tokenizer: the tokenizer of the tokens.
        train: the files of the training split.
        val: the files of the validation split.

    Raises:
        BadData: there is too little to train or to validate on, or the disk is full.
    """
    folder = made.folder
    # An old manifest must not describe new files.
    for name in (manifests.FILENAME, TOKENIZER_FILE, RECORD_FILE):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        if OUR_FILES.fullmatch(path.name):
            path.unlink()
    splits = {}
    for split, files in (("train", train), ("val", val)):
        shards = []
        for name, file in zip(shard_names(split, len(files)), files, strict=True):
            link_or_copy(file.path, folder / name)
            shards.append(Shard(name, file.tokens, file.sha256))
        splits[split] = Split(tuple(shards))
    if made.tokenizer.file is not None:
        save_tokenizer(tokenizer, folder / made.tokenizer.file)
    made = replace(made, train=splits["train"], val=splits["val"])
    manifests.write_manifest(made)
    return made
