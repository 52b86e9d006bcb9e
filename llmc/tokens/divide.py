"""Divide a stream of tokens into the training and the validation files of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.tokens import split as splits
from llmc.tokens.files import MIN_TOKENS, TokenFile
from llmc.tokens.manifest import SplitRecord
from llmc.tokens.shards import SHARD_TOKENS, Scratch, written
from llmc.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmc.tokens.masks import Marked
    from llmc.tokens.split import Sample

# A fraction of a large set is more than a validation ever reads.
MOST_VAL_TOKENS = 10_000_000
SLICE = 1 << 20


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
    """Return the position in low … high - 1 of a document's start that is nearest to ``target``.

    The search widens from the target outwards: it seldom goes far. Of two as near, the first.
    """
    joined, reach = splits.Joined([file.path for file in files]), SLICE
    while low < high:
        start, end = max(low, target - reach), min(high, target + reach + 1)
        places = joined.documents(token, start, end)
        if len(places):
            return int(places[abs(places - target).argmin()])
        if (start, end) == (low, high):
            return None
        reach *= 4
    return None


def _slices(file: TokenFile, start: int, end: int) -> Iterator[Marked]:
    ids = splits.tokens_in(file.path)
    return (ids[at : min(at + SLICE, end)] for at in range(start, end, SLICE))


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
                slices = _slices(file, start, end)
                masked = file.mask_sha256 is not None
                split.append(written(path, slices, tokenizer.vocab_size, masked=masked))
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

    def ids(number: int, of: Sample, *, within: bool) -> Iterator[Marked]:
        bounds = of.of(starts[number], starts[number + 1])
        return splits.tokens_of(splits.tokens_in(files[number].path), bounds, within=within)

    masked = files[0].mask_sha256 is not None
    size, train = tokenizer.vocab_size, list(files)
    val: list[TokenFile] = []
    touched = [n for n, ends in enumerate(pairwise(starts)) if len(sample.of(*ends))]
    for part in sample.parts(shard_tokens):
        path = scratch.folder / f"sample_val_{len(val):06}.bin"
        pieces = (piece for number in touched for piece in ids(number, part, within=True))
        val.append(written(path, pieces, size, masked=masked))
    for number in touched:
        path = scratch.folder / f"sample_train_{number:06}.bin"
        rest = ids(number, sample, within=False)
        train[number] = written(path, rest, size, masked=masked)
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
