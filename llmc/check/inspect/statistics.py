"""Statistics of streams of tokens and of weights, in memory that does not grow with the file."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_IDS = 1 << 24  # llmc's largest vocabulary; larger ids are only counted


@dataclass
class TokenCounts:
    """The frequency of each id, and the lengths of documents.

    Attributes:
        eot: the id between documents; None: documents are not counted.
        tokens: the number of tokens.
        counts: (n,) int64, the frequency of each id; None before the first token.
        beyond: the number of tokens with ids of ``MOST_IDS`` or more.
        lengths: length of a document -> number of documents. n tokens have at most sqrt(2n)
            different lengths, so this stays small.
    """

    eot: int | None = None
    tokens: int = 0
    counts: NDArray[np.int64] | None = None
    beyond: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    _open: int = 0  # tokens since the last eot
    _before: bool = False  # an eot has been seen
    _cut: bool = False  # the tokens up to the next eot are a part of a document

    def add(self, ids: NDArray[np.unsignedinteger[Any]]) -> None:
        """Count a stretch (n,) of tokens that follows the last one."""
        import numpy as np

        if not ids.size:
            return
        self.tokens += int(ids.size)
        known = ids
        if ids.dtype.itemsize > 2 and int(ids.max()) >= MOST_IDS:
            known = ids[ids < MOST_IDS]
            self.beyond += int(ids.size - known.size)
        counted = np.bincount(known)
        if self.counts is None:
            self.counts = counted.astype(np.int64)
        elif len(counted) > len(self.counts):
            counted[: len(self.counts)] += self.counts
            self.counts = counted
        else:
            self.counts[: len(counted)] += counted
        if self.eot is not None:
            self._add_lengths(ids)

    def _add_lengths(self, ids: NDArray[np.unsignedinteger[Any]]) -> None:
        import numpy as np

        places = np.flatnonzero(ids == self.eot)
        if not places.size:
            self._open += int(ids.size)
            return
        first = self._open + int(places[0])
        if not self._cut and (first or self._before):  # no tokens before the first eot: no document
            self.lengths[first] += 1
        values, numbers = np.unique(np.diff(places) - 1, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            self.lengths[value] += number
        self._open = int(ids.size - 1 - places[-1])
        self._before, self._cut = True, False

    def close(self) -> None:
        """End the stream: tokens after the last eot are a document."""
        if self._open and not self._cut:
            self.lengths[self._open] += 1
        self._open, self._before = 0, False

    def skip(self) -> None:
        """Skip a part of the stream: documents that are cut are not counted."""
        self._open, self._before, self._cut = 0, False, True

    @property
    def distinct(self) -> int:
        """The number of different ids."""
        import numpy as np

        return 0 if self.counts is None else int(np.count_nonzero(self.counts))

    @property
    def largest(self) -> int | None:
        """The largest id below ``MOST_IDS``; ``None`` where there is no token."""
        import numpy as np

        if self.counts is None or not self.counts.any():
            return None
        return int(np.flatnonzero(self.counts)[-1])

    def above(self, vocab_size: int) -> int:
        """Return the number of tokens outside a vocabulary."""
        inside = 0 if self.counts is None else int(self.counts[vocab_size:].sum())
        return self.beyond + inside

    def most_frequent(self, count: int) -> list[tuple[int, int]]:
        """Return the ``count`` most frequent ids and their frequencies; ties by id."""
        import numpy as np

        if self.counts is None:
            return []
        order = np.argsort(-self.counts, kind="stable")[:count]
        return [(int(i), int(self.counts[i])) for i in order if self.counts[i]]

    @property
    def documents(self) -> int:
        """The number of documents."""
        return self.lengths.total()

    def document_lengths(self) -> dict[str, float] | None:
        """Return min, median, mean and max of document lengths; None without documents."""
        count = self.documents
        if not count:
            return None
        ordered = sorted(self.lengths)
        ends = list(accumulate(self.lengths[length] for length in ordered))

        def at(place: int) -> int:
            return ordered[bisect_right(ends, place)]

        return {
            "min": ordered[0],
            "median": (at((count - 1) // 2) + at(count // 2)) / 2,
            "mean": sum(n * times for n, times in self.lengths.items()) / count,
            "max": ordered[-1],
        }


@dataclass
class Moments:
    """Mean, standard deviation and range of a tensor's finite values; counts of the others.

    Pieces are combined by Chan, Golub and LeVeque's formula (1979), which keeps a small deviation
    around a large mean accurate.
    """

    count: int = 0
    nan: int = 0
    infinite: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: NDArray[Any]) -> None:
        """Add a piece (n,) of any floating or integer type."""
        import numpy as np

        with np.errstate(all="ignore"):  # for signalling NaNs in damaged files
            self._add(values.astype(np.float64).reshape(-1))

    def _add(self, wide: NDArray[np.float64]) -> None:
        import numpy as np

        finite = np.isfinite(wide)
        if not finite.all():
            nan = int(np.isnan(wide).sum())
            self.nan += nan
            self.infinite += int(wide.size - finite.sum()) - nan
            wide = wide[finite]
        if not wide.size:
            return
        mean = float(wide.mean())
        squares = float(np.square(wide - mean).sum())
        apart = mean - self.mean
        total = self.count + wide.size
        self.mean += apart * wide.size / total
        self.squares += squares + apart * apart * self.count * wide.size / total
        self.count = total
        self.low = min(self.low, float(wide.min()))
        self.high = max(self.high, float(wide.max()))

    @property
    def std(self) -> float:
        """The standard deviation of the finite values."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan

    def cells(self) -> tuple[float | None, ...]:
        """Return mean, std, min, max, and the counts of NaNs and infinities."""
        if not self.count:
            return (None, None, None, None, self.nan, self.infinite)
        return (self.mean, self.std, self.low, self.high, self.nan, self.infinite)


MOMENT_COLUMNS = (">mean", ">std", ">min", ">max", ">NaN", ">inf")
