"""Tokenize a text in parts, on several machines or in several processes, and merge the parts.

Part I of N is a contiguous range of whole documents. The tokens of all parts in order are those
of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

from llmc.errors import BadData, MissingOutput, Usage
from llmc.text.source import Part
from llmc.tokens.manifest import Manifest, load_manifest, verify

FOLDER = re.compile(r"part-\d+-of-(\d+)")
MOST_PARTS = 100_000


def read_shard(text: str) -> tuple[int, int]:
    """Return I and N of ``I/N``.

    Raises:
        Usage: it is something else, or I is not one of 1 … N.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, of = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= of <= MOST_PARTS:
        raise Usage(f"--shard takes I/N, the I-th of N parts, such as 1/8 … 8/8, not '{text}'")
    return index, of


def folder_name(index: int, of: int) -> str:
    """Return the name of a part's folder."""
    return f"part-{index:03}-of-{of:03}"


def range_of(parts: Sequence[Part], index: int, of: int) -> tuple[Part, ...]:
    """Return the ``index``-th of ``of`` contiguous ranges of a text, of about the same size.

    A document belongs to the range in which its first byte lies. If the size of any part is
    unknown, parts are not cut, and count alike.
    """
    sizes = [part.bytes for part in parts]
    weights = [size if size is not None and None not in sizes else 1 for size in sizes]
    total = max(1, sum(weights))
    low, high = (total * (index - 1) // of, total * index // of)
    chosen = []
    for part, weight, start in zip(parts, weights, accumulate(weights, initial=0), strict=False):
        if part.bytes is None or weight <= 1:
            if low <= start < high or (index == of and start >= high):
                chosen.append(part)
            continue
        first, last = max(low - start, 0), min(high - start, weight)
        if (first, last) == (0, weight):
            chosen.append(part)
        elif first < last:
            # A compressed part has more text than bytes: the rest belongs to its last range.
            read = partial(_within, part, first, last if last < weight else None)
            chosen.append(Part(f"{part.name} from byte {first:,}", last - first, read))
    return tuple(chosen)


def _within(part: Part, first: int, end: int | None) -> Iterator[str]:
    at = 0
    for document in part.read():
        if end is not None and at >= end:
            return
        if at >= first:
            yield document
        at += len(document) if document.isascii() else len(document.encode(errors="replace"))


def find_parts(folders: Sequence[Path]) -> list[Manifest]:
    """Return the manifests of all parts of a dataset, in order, their files verified.

    ``folders`` are those of the parts, or the dataset's folder that contains them.

    Raises:
        Usage: a folder is not a part of a dataset.
        MissingOutput: a part is missing.
        BadData: the parts do not belong together, or one is damaged.
    """
    found: list[Path] = []
    for folder in folders:
        inner = sorted(path for path in folder.glob("part-*") if FOLDER.fullmatch(path.name))
        found += inner or [folder]
    manifests = [load_manifest(folder) for folder in dict.fromkeys(found)]
    first = manifests[0]
    by_index: dict[int, Manifest] = {}
    for made in manifests:
        if made.part is None or first.part is None:
            raise Usage(
                f"{made.folder} is not a part of a dataset: "
                "name folders that 'llmc tokenize --shard I/N' wrote"
            )
        for what, mine, theirs in (
            ("number of parts", made.part.of, first.part.of),
            ("text", made.source, first.source),
            ("tokenizer", made.tokenizer.fingerprint, first.tokenizer.fingerprint),
            ("chat template", made.tokenizer.template, first.tokenizer.template),
            ("treatment of special tokens", made.special, first.special),
            ("dataset", made.dataset, first.dataset),
        ):
            if mine != theirs:
                raise BadData(
                    f"{made.folder} and {first.folder} are not parts of one dataset: their {what} "
                    "differs"
                )
        twin = by_index.setdefault(made.part.index, made)
        if twin is not made:
            raise Usage(f"{made.folder} and {twin.folder} are the same part: name one of them")
    assert first.part is not None
    of = first.part.of
    missing = [index for index in range(1, of + 1) if index not in by_index]
    if missing or len(by_index) > of:
        names = ", ".join(f"{index}/{of}" for index in missing[:5])
        raise MissingOutput(
            f"{len(missing)} of {of} parts of {first.dataset} are missing ({names}"
            f"{', …' if len(missing) > 5 else ''}): make them with 'llmc tokenize … --shard I/{of}'"
        )
    in_order = [by_index[index] for index in range(1, of + 1)]
    for made in in_order:
        verify(made)
    return in_order
