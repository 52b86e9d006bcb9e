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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.parsing import read_json
from llmc.paths import link_or_copy, write_json
from llmc.tokens import files as token_files
from llmc.tokens import manifest as manifests
from llmc.tokens import split as splits
from llmc.tokens.files import MIN_TOKENS, TokenFile, payload_sha256, read_tokens, write_tokens
from llmc.tokens.manifest import Manifest, Shard, Split, SplitRecord, shard_names
from llmc.tokens.pipeline import Feed, Position, Stream
from llmc.tokens.recorded import RECORD_FILE, save_tokenizer
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.vocabulary import TOKENIZER_FILE

if TYPE_CHECKING:
    from llmc.tokens.files import Ids
    from llmc.tokens.split import Sample

SCRATCH = ".tokenizing"
JOURNAL = "journal.json"
JOURNAL_FORMAT = 1
SHARD_TOKENS = 100_000_000  # as llm.c's FineWeb script cuts
# A fraction of a large set is more than a validation ever reads.
MOST_VAL_TOKENS = 10_000_000
SLICE = 1 << 20
OUR_FILES = re.compile(r"(train|val)(_\d{6,})?\.bin")


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
                    TokenFile(self.folder / file["file"], file["tokens"], file["sha256"])
                    for file in stage["files"]
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
    return len(read_tokens(file.path)) == file.tokens and payload_sha256(file.path) == file.sha256


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
    shard_tokens: int,
    workers: int,
    advance: Callable[[int], object],
) -> StreamState:
    """Write a stream's tokens in shards, after those that are finished.

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


@dataclass(frozen=True)
class Cut:
    """The size of the validation split, a sample or, with ``first``, the start of the stream."""

    tokens: int | None = None  # so many tokens; 0: none; None: a fraction
    fraction: float = 0.1  # of the tokens
    most: int | None = None  # the maximum number of tokens of a fraction
    first: bool = False  # llm.c's cut

    def target(self, total: int) -> int:
        """Return the size of the split of ``total`` tokens, before whole documents change it."""
        if self.tokens is not None:
            return self.tokens
        least = MIN_TOKENS if total >= 2 * MIN_TOKENS else 0
        return max(min(round(self.fraction * total), self.most or total), least)

    def at(self, files: Sequence[TokenFile], eot: int) -> int:
        """Return the size of the validation split of the tokens in ``files``.

        A count is exact, as llm.c's; a fraction moves to the nearest start of a document, if that
        changes it by less than half.
        """
        total = sum(file.tokens for file in files)
        if self.tokens is not None:
            return min(self.tokens, total)
        target = self.target(total)
        found = _nearest(files, eot, target, target // 2 + 1, min(total, target + target // 2))
        return target if found is None else found


def _nearest(
    files: Sequence[TokenFile], token: int, target: int, low: int, high: int
) -> int | None:
    """Return the position in low … high - 1 that holds ``token`` and is nearest to ``target``.

    The search widens from the target outwards: it seldom goes far. Of two as near, the first.
    """
    joined, reach = splits.Joined(files), SLICE
    while low < high:
        start, end = max(low, target - reach), min(high, target + reach + 1)
        places = joined.positions(token, start, end)
        if len(places):
            return int(places[abs(places - target).argmin()])
        if (start, end) == (low, high):
            return None
        reach *= 4
    return None


def _slices(path: Path, start: int, end: int) -> Iterator[Ids]:
    # A new map for each slice: pages that were read count as this process's memory.
    return (read_tokens(path)[at : min(at + SLICE, end)] for at in range(start, end, SLICE))


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


def divide(
    scratch: Scratch,
    files: Sequence[TokenFile],
    cut: Cut,
    tokenizer: Tokenizer,
    shard_tokens: int = SHARD_TOKENS,
) -> tuple[list[TokenFile], list[TokenFile], SplitRecord]:
    """Return the validation files, the training files, and how they were divided.

    Raises:
        BadData: a file is broken, or the disk is full.
    """
    if cut.tokens == 0:
        return [], list(files), SplitRecord("none")
    if cut.first:
        return *cut_stream(scratch, files, cut, tokenizer), SplitRecord("first")
    target = cut.target(sum(file.tokens for file in files))
    sample = splits.draw(files, tokenizer.eot, target)
    if sample.tokens < MIN_TOKENS:
        return [], list(files), SplitRecord("none")
    starts = list(accumulate((file.tokens for file in files), initial=0))

    def ids(number: int, of: Sample, *, within: bool) -> Iterator[Ids]:
        bounds = of.of(starts[number], starts[number + 1])
        return splits.tokens_of(token_files.FreshTokens(files[number].path), bounds, within=within)

    size, train = tokenizer.vocab_size, list(files)
    val: list[TokenFile] = []
    touched = [n for n, ends in enumerate(pairwise(starts)) if len(sample.of(*ends))]
    for part in sample.parts(shard_tokens):
        path = scratch.folder / f"sample_val_{len(val):06}.bin"
        pieces = (piece for number in touched for piece in ids(number, part, within=True))
        val.append(write_tokens(path, pieces, size))
    for number in touched:
        path = scratch.folder / f"sample_train_{number:06}.bin"
        train[number] = write_tokens(path, ids(number, sample, within=False), size)
    runs = len(sample.bounds) - sample.documents
    record = SplitRecord("sample", splits.SEED, sample.documents, runs)
    return val, [file for file in train if file.tokens], record


def check_enough(
    scratch: Scratch, name: str, train: Sequence[TokenFile], val: Sequence[TokenFile], cut: Cut
) -> None:
    """Check that there are tokens to train on, and to validate on where ``cut`` names a number.

    If not, forget the finished shards.

    Raises:
        BadData: a split is empty.
    """
    counts = [sum(file.tokens for file in files) for files in (train, val)]
    if counts[0] < MIN_TOKENS or ((val or cut.tokens) and counts[1] < MIN_TOKENS):
        scratch.streams.clear()
        raise BadData(
            f"'{name}' is too little text: {sum(counts):,} tokens leave {counts[1]:,} to validate "
            f"on and {counts[0]:,} to train on; add text or change --val-tokens or --val-fraction"
        )


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
            shards.append(Shard(name, file.tokens, file.sha256))
        splits[split] = Split(tuple(shards))
    if made.tokenizer.file is not None:
        save_tokenizer(tokenizer, folder / made.tokenizer.file)
    made = replace(made, train=splits["train"], val=splits["val"])
    manifests.write_manifest(made)
    return made
