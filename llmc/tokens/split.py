"""Choose the validation split: a sample of whole documents from everywhere in the text.

Documents are drawn by a seeded hash of their own tokens, not of their place: file names do not
decide what is measured, equal documents are in the same split, and a document stays in its split
when others are added. A document too long for that, such as a text that is a single one, gives runs
of its tokens from several places; a conversation gives none. The rest trains, in the order of the
text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.tokens.files import MIN_TOKENS, FreshTokens, TokenFile, has_mask
from llmc.tokens.masks import CONVERSATION, HEADER_BYTES, MARKED, TURN, mask_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmc.tokens.files import Ids
    from llmc.tokens.masks import Marked

    Bounds = NDArray[np.int64]  # (n, 2): where ranges of tokens begin and end

SEED = 1337
STRETCHES, STRETCH = 16, 100_000_000  # a longer text is sampled in 16 evenly spaced stretches
MOST_RUNS, LEAST_RUN = 10, 128  # of a long document; a single run may have fewer tokens
HASHED = 16  # tokens of a document, evenly spaced, that its hash is made of
SLICE = 1 << 20
PLACES = 1 << 9  # looked at in one map of a file


@dataclass(frozen=True)
class Sample:
    """The part of a stream that is the validation split."""

    bounds: Bounds  # where its ranges begin and end, (n, 2), in order
    documents: int  # how many of them are whole documents; the others are runs of long ones

    @property
    def tokens(self) -> int:
        """The tokens of all ranges."""
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    def parts(self, most: int) -> Iterator[Sample]:
        """Yield it in parts of at most ``most`` tokens, in order."""
        import numpy as np

        ends = np.cumsum(self.bounds[:, 1] - self.bounds[:, 0])
        offset = self.bounds[:, 1] - ends  # from a place in the sample to one in the stream
        places = np.stack([np.append(0, ends[:-1]), ends], axis=1)
        for at in range(0, self.tokens, most):
            clipped = places.clip(at, at + most)
            here = clipped[:, 0] < clipped[:, 1]
            yield Sample((clipped + offset[:, None])[here], 0)

    def of(self, start: int, end: int) -> Bounds:
        """Return its ranges in a file that holds the stream from ``start`` to ``end``."""
        clipped: Bounds = self.bounds.clip(start, end) - start
        return clipped[clipped[:, 0] < clipped[:, 1]]


class MarkedTokens(FreshTokens):
    """The tokens of a file with their mask, as records of ``MARKED``."""

    def __getitem__(self, part: Any) -> Any:
        """Return the records of a slice or at positions, (n,)."""
        import numpy as np

        ids = super().__getitem__(part)
        found = np.empty(ids.shape, MARKED)
        mask = np.memmap(mask_path(self._path), "u1", mode="r", offset=HEADER_BYTES)
        found["id"], found["mask"] = ids, mask[part]
        return found


def tokens_in(path: Path) -> FreshTokens:
    """Return the tokens of a file, with their mask if it has one."""
    return MarkedTokens(path) if has_mask(path) else FreshTokens(path)


class Joined:
    """Token files as one stream; a broken one raises BadData."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import numpy as np

        self.files = [FreshTokens(path) for path in paths]
        self._marked = [MarkedTokens(path) for path in paths if has_mask(path)]
        self.starts = np.cumsum([0, *map(len, self.files)])

    def positions(self, token: int, low: int, high: int) -> NDArray[np.int64]:
        """Return where ``token`` is from ``low`` to ``high``."""
        return self._where(self.files, lambda ids: ids == token, low, high)

    def documents(self, eot: int, low: int, high: int) -> NDArray[np.int64]:
        """Return where documents begin from ``low`` to ``high``: at each ``eot``.

        With masks they are conversations, in which ``eot`` may end an answer too: the mask says
        where they begin.
        """
        if not self._marked:
            return self.positions(eot, low, high)
        return self._where(self._marked, lambda ids: ids["mask"] & CONVERSATION != 0, low, high)

    def turns(self, low: int, high: int) -> NDArray[np.int64]:
        """Return where turns of conversations begin from ``low`` to ``high``."""
        return self._where(self._marked, lambda ids: ids["mask"] & TURN != 0, low, high)

    def _where(
        self,
        files: Sequence[FreshTokens],
        test: Callable[[Any], NDArray[np.bool_]],
        low: int,
        high: int,
    ) -> NDArray[np.int64]:
        """Return where a test of the tokens is true from ``low`` to ``high``."""
        import numpy as np

        found = [np.empty(0, np.int64)]
        for first, ids in zip(self.starts, files, strict=False):
            begin, end = max(low - first, 0), min(high - first, len(ids))
            for at in range(begin, end, SLICE):
                found.append(np.flatnonzero(test(ids[at : min(at + SLICE, end)])) + first + at)
        return np.concatenate(found)

    def holds(self, token: int) -> bool:
        """Return whether ``token`` is among the tokens."""
        return any(
            (ids[at : at + SLICE] == token).any()
            for ids in self.files
            for at in range(0, len(ids), SLICE)
        )

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the tokens at ``positions``, (n,)."""
        import numpy as np

        found = np.empty(len(positions), np.uint64)
        files = np.searchsorted(self.starts, positions, "right") - 1
        for number in np.unique(files):
            there = np.flatnonzero(files == number)
            for at in range(0, len(there), PLACES):
                here = there[at : at + PLACES]
                found[here] = self.files[number][positions[here] - self.starts[number]]
        return found


def draw(files: Sequence[TokenFile], eot: int, target: int, seed: int = SEED) -> Sample:
    """Return a sample of about ``target`` tokens.

    A document begins at each ``eot``. The result depends on the tokens, not on how they are cut
    into files, and on the seed.

    Raises:
        BadData: a file cannot be read.
    """
    import numpy as np

    joined = Joined([file.path for file in files])
    total = int(joined.starts[-1])
    if total <= STRETCHES * STRETCH or target > STRETCHES * STRETCH // 2:
        return _draw_from(joined, (0, total), eot, target, seed)
    samples = []
    for number in range(STRETCHES):
        low = (total - STRETCH) * number // (STRETCHES - 1)
        stretch = (low, low + STRETCH)
        samples.append(_draw_from(joined, stretch, eot, target // STRETCHES, seed))
    bounds = np.concatenate([sample.bounds for sample in samples])
    return Sample(bounds, sum(sample.documents for sample in samples))


def _draw_from(
    joined: Joined, stretch: tuple[int, int], eot: int, target: int, seed: int
) -> Sample:
    """Draw from a part of the stream; of its documents only those that may be chosen are held."""
    import numpy as np

    low, high = stretch
    if not target or high - low <= target + MIN_TOKENS - 1:
        return Sample(np.empty((0, 2), np.int64), 0)
    best = _Lowest(target)
    long: list[Bounds] = []
    long_talk, leaves_one = 0, True
    chunks = document_bounds(joined, stretch, eot)
    begun = [*islice(chunks, 2)]
    is_only = len(begun) == 1
    for bounds in chain(begun, chunks):
        lengths = bounds[:, 1] - bounds[:, 0]
        is_long = (2 * lengths > 3 * target) | is_only
        turns = joined.turns(int(bounds[0, 0]), int(bounds[-1, 1]))
        is_talk = np.diff(np.searchsorted(turns, bounds)).ravel() > 0
        long.append(bounds[is_long & ~is_talk])
        long_talk += int(lengths[is_long & is_talk].sum())
        leaves_one &= not is_long.any()
        is_whole = ~is_long
        # A document that goes on outside of the stretch is not whole here.
        is_first = bounds[0, 0] == low != 0
        is_whole[0] &= not is_first or len(joined.documents(eot, low, low + 1)) > 0
        is_whole[-1] &= bounds[-1, 1] < high or high == joined.starts[-1]
        best.add(bounds[is_whole], _hashes(joined, bounds[is_whole], seed))
    share = target / (high - low)
    runs: list[tuple[int, int]] = []
    taken = 0
    cut = np.concatenate(long)
    ends = np.cumsum(cut[:, 1] - cut[:, 0]) * share + 0.5
    for at, end in zip(cut, ends.astype(np.int64), strict=True):
        runs += _runs(at, int(end) - taken, seed)
        taken = int(end)
    left = target - taken - round(float(long_talk * share))
    chosen = best.adding_up_to(left, leaves_one=leaves_one)
    found = np.concatenate([chosen, np.array(runs, np.int64).reshape(-1, 2)])
    return Sample(found[np.argsort(found[:, 0])], len(chosen))


def document_bounds(joined: Joined, stretch: tuple[int, int], eot: int) -> Iterator[Bounds]:
    """Yield where the documents of a stretch begin and end, some at a time: each at the next eot.

    The last one comes alone.
    """
    import numpy as np

    begin, high = stretch
    for at in range(begin, high, SLICE):
        starts = joined.documents(eot, at, min(at + SLICE, high))
        edges = np.append(begin, starts[starts > begin])
        if len(edges) > 1:
            yield np.stack([edges[:-1], edges[1:]], axis=1)
        begin = int(edges[-1])
    yield np.array([[begin, high]])


class _Lowest:
    """Of documents that come one after the other, those with the lowest hashes.

    As many are held as have ``most`` tokens or just more.
    """

    def __init__(self, most: int) -> None:
        import numpy as np

        self._most = most
        self._bounds: Bounds = np.empty((0, 2), np.int64)  # by hash, then by place
        self._hashes = np.empty(0, np.uint64)
        self._count = 0  # of all that came

    def add(self, bounds: Bounds, hashes: NDArray[np.uint64]) -> None:
        """Take the next documents."""
        import numpy as np

        self._count += len(bounds)
        bounds = np.concatenate([self._bounds, bounds])
        hashes = np.concatenate([self._hashes, hashes])
        order = np.argsort(hashes, kind="stable")
        sums = np.cumsum((bounds[:, 1] - bounds[:, 0])[order])
        order = order[: int(np.searchsorted(sums, self._most)) + 1]
        self._bounds, self._hashes = bounds[order], hashes[order]

    def adding_up_to(self, target: int, *, leaves_one: bool) -> Bounds:
        """Return those with the lowest hashes whose lengths add up to nearest to ``target``."""
        import numpy as np

        held = self._bounds
        if leaves_one and len(held) == self._count:
            held = held[:-1]
        sums = np.append(0, np.cumsum(held[:, 1] - held[:, 0]))
        return held[: int(np.argmin(np.abs(sums - target)))]


def _runs(bounds: NDArray[Any], tokens: int, seed: int) -> list[tuple[int, int]]:
    """Return runs of a document that add up to ``tokens``: one in each of as many equal parts.

    Its first token, which begins the document, is in none.
    """
    first, end = int(bounds[0]) + 1, int(bounds[1])
    tokens = min(tokens, end - first)
    if tokens <= 0:
        return []
    count = min(max(tokens // LEAST_RUN, 1), MOST_RUNS)
    found = []
    for i in range(count):
        low, high = (first + (end - first) * at // count for at in (i, i + 1))
        size = tokens * (i + 1) // count - tokens * i // count
        start = low + int(_mixed(seed, end - first, i)[0]) % (high - low - size + 1)
        found.append((start, start + size))
    return found


def _hashes(joined: Joined, bounds: Bounds, seed: int) -> NDArray[np.uint64]:
    """Return a hash of each document, of its length and of some of its tokens."""
    lengths = bounds[:, 1] - bounds[:, 0]
    hashes = _mixed(seed, lengths)
    for i in range(HASHED):
        hashes = _mixed(hashes, joined.at(bounds[:, 0] + lengths * i // HASHED))
    return hashes


def _mixed(*values: Any) -> NDArray[np.uint64]:
    """Mix integers, or arrays of them, into one: the finalizer of SplitMix64 after each."""
    import numpy as np

    state = np.zeros(1, np.uint64)
    for value in values:
        state = (state ^ np.asarray(value).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    return state


def tokens_of(ids: Ids | FreshTokens, bounds: Bounds, *, within: bool) -> Iterator[Marked]:
    """Yield the tokens within ``bounds``, or outside of them, in order, in pieces."""
    import numpy as np

    edges = bounds.reshape(-1)
    for at in range(0, len(ids), SLICE):
        end = min(at + SLICE, len(ids))
        low, high = (int(np.searchsorted(edges, place, "right")) for place in (at, end - 1))
        begins_inside = low % 2 == 1
        if low == high:
            if begins_inside == within:
                yield ids[at:end]
            continue
        steps = np.diff(np.concatenate([[at], edges[low:high], [end]]))
        inside = (np.arange(len(steps)) % 2 == 1) ^ begins_inside
        yield ids[at:end][np.repeat(inside == within, steps)]
