"""Streams of tokens to the files of a dataset: shards, written so that an interruption costs one.

The work is done in a hidden folder beside the place of the files. A journal there says which shards
are finished and where in the source they end; it is itself replaced whole, after each shard. Only
what is complete is moved into place, the manifest last.
"""

from __future__ import annotations

import errno
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
from llmc.paths import written_whole
from llmc.tokens import manifest as manifests
from llmc.tokens.files import TokenFile, payload_sha256, read_tokens, write_tokens
from llmc.tokens.manifest import Manifest, Shard, Split, TokenizerRecord, shard_names
from llmc.tokens.pipeline import Feed, Position, Stream
from llmc.tokens.split import MIN_TOKENS, SLICE, Cut, too_little
from llmc.tokens.tokenizer import RECORD_FILE, TOKENIZER_FILE, Tokenizer, file_of, save_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCRATCH = ".tokenizing"
JOURNAL = "journal.json"
JOURNAL_FORMAT = 1
SHARD_TOKENS = 100_000_000  # as llm.c's FineWeb script cuts
OUR_FILES = re.compile(r"(train|val)(_\d{6,})?\.bin")


@dataclass
class Stage:
    """One stream on its way to the disk.

    Attributes:
        files: the shards that are finished, in the scratch folder.
        position: where in the source they end.
        text_bytes: of the source before that.
        complete: there is no more to come.
    """

    files: list[TokenFile] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    text_bytes: int = 0
    complete: bool = False


class Scratch:
    """The hidden folder in which a dataset comes to be, and its journal.

    Attributes:
        folder: the hidden folder.
        stages: what is finished, by the name of the stream: ``train``, ``val``.
        resumed: the tokens that an earlier call has left.
        foreign: an earlier call has left work for something else, which was thrown away.
    """

    def __init__(self, place: Path, key: str) -> None:
        """Take up what an earlier call for the same work left in ``place``; ``key`` names it."""
        self.folder = place / SCRATCH
        self.key = key
        self.stages: dict[str, Stage] = {}
        self.foreign = False
        if self.folder.is_dir():
            self.foreign = not self._take_up()
            self._sweep()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resumed = sum(file.tokens for stage in self.stages.values() for file in stage.files)

    def stage(self, name: str) -> Stage:
        """Return a stream's state, begun where it is new."""
        return self.stages.setdefault(name, Stage())

    def save(self) -> None:
        """Write the journal.

        Raises:
            BadData: the disk is full.
        """
        stages = {
            name: {
                "files": [
                    {"file": file.path.name, "tokens": file.tokens, "sha256": file.sha256}
                    for file in stage.files
                ],
                "position": asdict(stage.position),
                "text_bytes": stage.text_bytes,
                "complete": stage.complete,
            }
            for name, stage in self.stages.items()
        }
        journal = {"format": JOURNAL_FORMAT, "key": self.key, "stages": stages}
        with written_whole(self.folder / JOURNAL) as partial:
            partial.write_text(json.dumps(journal, indent=1) + "\n", encoding="utf-8")

    def discard(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> None:
        """After a failure: keep finished shards and the journal, nothing else."""
        if any(stage.files for stage in self.stages.values()):
            self._sweep()
        else:
            self.discard()

    def _take_up(self) -> bool:
        """Read the journal; False where it is of other work or its files are not whole."""
        try:
            journal = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
            if (journal["format"], journal["key"]) != (JOURNAL_FORMAT, self.key):
                return False
            stages = {}
            for name, stage in journal["stages"].items():
                files = [
                    TokenFile(self.folder / file["file"], file["tokens"], file["sha256"])
                    for file in stage["files"]
                ]
                position = Position(**stage["position"])
                stages[name] = Stage(files, position, stage["text_bytes"], stage["complete"])
                for file in files:
                    if len(read_tokens(file.path)) != file.tokens:
                        return False
                    if payload_sha256(file.path) != file.sha256:
                        return False
        except FileNotFoundError:
            return True  # it never came to its first shard
        except (OSError, ValueError, TypeError, KeyError, AttributeError, BadData):
            return False
        self.stages = stages
        return True

    def _sweep(self) -> None:
        """Remove everything that the journal does not name."""
        known = {file.path.name for stage in self.stages.values() for file in stage.files}
        for path in self.folder.iterdir():
            if path.name not in known and (path.name != JOURNAL or not self.stages):
                path.unlink()


@contextmanager
def scratch_for(place: Path, key: str) -> Iterator[Scratch]:
    """Yield the scratch of a dataset's folder, which is this process's alone meanwhile.

    When the block fails, finished shards stay for the next call.

    Raises:
        BadData: another process works on the same dataset, or the place cannot be written.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            scratch = Scratch(place, key)
            try:
                yield scratch
            except BaseException:
                scratch.leave()
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
            place.rmdir()  # still empty: it failed, and leaves nothing behind


def _beneath(place: Path, name: object) -> bool:
    return isinstance(name, str) and Path(name).is_relative_to(place)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process, however that ends."""
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
) -> Stage:
    """Write a stream's tokens in shards, going on from those that are finished.

    Raises:
        LlmcError: what reading the source raises; the disk is full.
    """
    stage = scratch.stage(name)
    if stage.complete:
        return stage
    stream = Stream(feed, stage.position, workers, advance)
    before = stage.text_bytes
    try:
        while not stage.complete:
            path = scratch.folder / f"{name}_{len(stage.files) + 1:06}.bin"
            made = write_tokens(path, stream.take(shard_tokens), vocab_size)
            stage.complete = not stream.more()
            if made.tokens:
                stage.files.append(made)
            else:
                path.unlink()
            stage.position = stream.position
            stage.text_bytes = before + (
                stream.all_text_bytes if stage.complete else stream.text_bytes
            )
            scratch.save()
    finally:
        stream.close()
    return stage


def cut_stream(
    scratch: Scratch, files: Sequence[TokenFile], cut: Cut, tokenizer: Tokenizer
) -> tuple[list[TokenFile], list[TokenFile]]:
    """Return the files to validate on and those to train on; at most one of ``files`` is rewritten.

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
    # Mapped anew each time: what has been read counts as this process's memory until then.
    return (read_tokens(path)[at : min(at + SLICE, end)] for at in range(start, end, SLICE))


def check_enough(
    scratch: Scratch, name: str, train: Sequence[TokenFile], val: Sequence[TokenFile]
) -> None:
    """Refuse a dataset of which one split is empty, and forget it.

    Raises:
        BadData: it is.
    """
    counts = [sum(file.tokens for file in files) for files in (train, val)]
    if min(counts) < MIN_TOKENS:
        scratch.stages.clear()
        raise too_little(name, *counts)


def publish(
    made: Manifest,
    tokenizer: Tokenizer,
    *,
    train: Sequence[TokenFile],
    val: Sequence[TokenFile],
    keep: bool = False,
) -> Manifest:
    """Move token files into ``made.folder``, and write the tokenizer's file and the manifest.

    Args:
        made: all but the splits and the tokenizer's record.
        tokenizer: what made the tokens.
        train: the files of the training split.
        val: the files of the validation split.
        keep: the files stay where they are as well.

    Raises:
        BadData: there is too little to train or to validate on, or the disk is full.
    """
    folder = made.folder
    # The files change under an old manifest's feet: without it, nobody trusts them.
    for name in (manifests.FILENAME, TOKENIZER_FILE, RECORD_FILE):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        if OUR_FILES.fullmatch(path.name):
            path.unlink()
    splits = {}
    for split, files in (("train", train), ("val", val)):
        shards = []
        for name, file in zip(shard_names(split, len(files)), files, strict=True):
            _place(file.path, folder / name, keep=keep)
            shards.append(Shard(name, file.tokens, file.sha256))
        splits[split] = Split(tuple(shards))
    vocabulary = file_of(tokenizer)
    if vocabulary is not None:
        save_tokenizer(tokenizer, folder / vocabulary)
    record = TokenizerRecord(
        tokenizer.name, tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eot, vocabulary
    )
    made = replace(made, tokenizer=record, train=splits["train"], val=splits["val"])
    manifests.write_manifest(made)
    return made


def _place(file: Path, at: Path, *, keep: bool) -> None:
    """Link a file to its place, where it then has two names; else copy it, or move it."""
    try:
        os.link(file, at)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        if keep:
            with written_whole(at) as partial:
                shutil.copyfile(file, partial)
        else:
            file.replace(at)
