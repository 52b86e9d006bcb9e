"""Write token streams as the shards of a dataset; an interruption costs at most one shard.

Shards are written in a hidden folder inside the dataset's. A journal there lists the finished
shards and where in the source they end; it is replaced atomically after each shard. Only a complete
dataset is linked into place, the manifest last.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.parsing import read_json
from llmc.paths import link_or_copy, write_json
from llmc.tokens import manifest as manifests
from llmc.tokens.files import TokenFile, payload_sha256, read_tokens, write_tokens
from llmc.tokens.manifest import Manifest, Shard, Split, shard_names
from llmc.tokens.masks import mask_path
from llmc.tokens.pipeline import Feed, Position, Stream
from llmc.tokens.recorded import RECORD_FILE, save_tokenizer
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.vocabulary import TOKENIZER_FILE

if TYPE_CHECKING:
    from llmc.tokens.masks import Marked

SCRATCH = ".tokenizing"
JOURNAL = "journal.json"
JOURNAL_FORMAT = 1
SHARD_TOKENS = 100_000_000  # as llm.c's FineWeb script cuts
OUR_FILES = re.compile(r"(train|val)(_\d{6,})?\.(bin|mask)")


@dataclass
class StreamState:
    """How much of a token stream is written."""

    files: list[TokenFile] = field(default_factory=list)  # the finished shards
    position: Position = field(default_factory=Position)  # where in the source they end
    text_bytes: int = 0  # of the source before that
    complete: bool = False  # the stream has ended


class Scratch:
    """The hidden folder in which a dataset is written, and its journal.

    Attributes:
        streams: the state of each stream, ``train`` and ``val``; a new one is empty.
        resumed: the number of tokens kept from an interrupted call.
        foreign: an interrupted call's files were discarded: they were made from other inputs.
    """

    def __init__(self, place: Path, key: str) -> None:
        """Resume from the files of an interrupted call in ``place`` that has the same ``key``."""
        self.folder = place / SCRATCH
        self.key = key
        self.streams: dict[str, StreamState] = defaultdict(StreamState)
        self.foreign = False
        if self.folder.is_dir():
            self.foreign = not self._load()
            self.remove_unfinished()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resumed = sum(file.tokens for file in self._finished())

    def save(self) -> None:
        """Write the journal.

        Raises:
            BadData: the disk is full.
        """
        streams = {name: asdict(state) for name, state in self.streams.items()}
        for state in streams.values():
            state["files"] = [{"file": file.pop("path").name, **file} for file in state["files"]]
        journal = {"format": JOURNAL_FORMAT, "key": self.key, "stages": streams}
        write_json(self.folder / JOURNAL, journal)

    def remove_unfinished(self) -> None:
        """Keep the finished shards and the journal, and remove everything else."""
        known = {file.path.name for file in self._finished()}
        known |= {mask_path(file.path).name for file in self._finished() if file.mask_sha256}
        if not known:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for path in self.folder.iterdir():
            if path.is_dir():  # in which a file was being written
                shutil.rmtree(path)
            elif path.name not in {*known, JOURNAL}:
                path.unlink()

    def _finished(self) -> list[TokenFile]:
        return [file for state in self.streams.values() for file in state.files]

    def _load(self) -> bool:
        """Read the journal; return False if its key is another or a file is damaged."""
        try:
            journal = read_json(self.folder / JOURNAL)
            if (journal["format"], journal["key"]) != (JOURNAL_FORMAT, self.key):
                return False
            streams = {}
            for name, stage in journal["stages"].items():
                files = [
                    TokenFile(self.folder / file.pop("file"), **file) for file in stage["files"]
                ]
                position = Position(**stage["position"])
                streams[name] = StreamState(files, position, stage["text_bytes"], stage["complete"])
                if not all(map(_is_intact, files)):
                    return False
        except FileNotFoundError:
            return True  # interrupted before its first shard
        except (OSError, ValueError, TypeError, KeyError, AttributeError, BadData):
            return False
        self.streams.update(streams)
        return True


def _is_intact(file: TokenFile) -> bool:
    same = len(read_tokens(file.path)) == file.tokens and payload_sha256(file.path) == file.sha256
    mask = file.mask_sha256
    return same and (mask is None or payload_sha256(mask_path(file.path)) == mask)


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
                scratch.remove_unfinished()
                raise
            shutil.rmtree(scratch.folder, ignore_errors=True)
    except OSError as error:
        name = error.filename
        if name is not None and not (isinstance(name, str) and Path(name).is_relative_to(place)):
            raise
        raise BadData(
            f"cannot write the dataset {place}: {error.strerror}; choose another --out"
        ) from error
    finally:
        with suppress(OSError):
            place.rmdir()  # still empty: the call failed


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
    masked: bool,
    shard_tokens: int,
    workers: int,
    advance: Callable[[int], object],
) -> StreamState:
    """Write a stream's tokens in shards, after those that are finished; ``masked`` with masks.

    Raises:
        LlmcError: what reading the source raises; the disk is full.
    """
    state = scratch.streams[name]
    if state.complete:
        return state
    stream = Stream(feed, state.position, workers, advance)
    before = state.text_bytes
    try:
        while not state.complete:
            path = scratch.folder / f"{name}_{len(state.files) + 1:06}.bin"
            made = written(path, stream.take(shard_tokens), vocab_size, masked=masked)
            state.complete = not stream.more()
            if made.tokens:
                state.files.append(made)
            else:
                path.unlink()
                mask_path(path).unlink(missing_ok=True)
            state.position = stream.position
            state.text_bytes = before + (
                stream.all_text_bytes if state.complete else stream.text_bytes
            )
            scratch.save()
    finally:
        stream.close()
    return state


def written(path: Path, chunks: Iterable[Marked], vocab_size: int, *, masked: bool) -> TokenFile:
    """Write ids, or with ``masked`` records of ids and mask, as a token file."""
    if masked:
        pairs = ((chunk["id"], chunk["mask"]) for chunk in chunks)
        return write_tokens(path, pairs, vocab_size, masked=True)
    return write_tokens(path, chunks, vocab_size)


def publish(
    made: Manifest, tokenizer: Tokenizer, train: Sequence[TokenFile], val: Sequence[TokenFile]
) -> Manifest:
    """Link token files into ``made.folder``, write the tokenizer and the manifest with its splits.

    Raises:
        BadData: the disk is full.
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
            if file.mask_sha256 is not None:
                link_or_copy(mask_path(file.path), mask_path(folder / name))
            shards.append(Shard(name, file.tokens, file.sha256, file.mask_sha256))
        splits[split] = Split(tuple(shards))
    if made.tokenizer.file is not None:
        save_tokenizer(tokenizer, folder / made.tokenizer.file)
    made = replace(made, train=splits["train"], val=splits["val"])
    manifests.write_manifest(made)
    return made
