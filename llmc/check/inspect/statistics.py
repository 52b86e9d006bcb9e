"""Counts over streams of tokens and of weights, in memory that does not grow with the file."""

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

MOST_IDS = 1 << 24  # llmc's largest vocabulary; ids above are counted, not told apart


@dataclass
class TokenCounts:
    """How often each id came, and how long the documents were.

    Attributes:
        eot: the id that divides documents; None: documents are not looked for.
        tokens: how many were seen.
        counts: (n,) int64, how often each id came; None before the first.
        beyond: tokens of ``MOST_IDS`` or more.
        lengths: length of a document -> how many have it. There are at most sqrt(2n) different
            lengths in n tokens, so this stays small.
    """

    eot: int | None = None
    tokens: int = 0
    counts: NDArray[np.int64] | None = None
    beyond: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    _open: int = 0  # tokens since the last divider
    _before: bool = False  # a divider has been seen
    _cut: bool = False  # what comes until the next divider is a part of a document

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
        if not self._cut and (first or self._before):  # nothing before the first is no document
            self.lengths[first] += 1
        values, numbers = np.unique(np.diff(places) - 1, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            self.lengths[value] += number
        self._open = int(ids.size - 1 - places[-1])
        self._before, self._cut = True, False

    def close(self) -> None:
        """End the stream: what is left open is a document, unless a divider came last."""
        if self._open and not self._cut:
            self.lengths[self._open] += 1
        self._open, self._before = 0, False

    def skip(self) -> None:
        """Leave a gap in the stream: documents that it cuts are not counted."""
        self._open, self._before, self._cut = 0, False, True

    @property
    def distinct(self) -> int:
        """How many different ids came."""
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
        """Return how many tokens lie outside a vocabulary."""
        inside = 0 if self.counts is None else int(self.counts[vocab_size:].sum())
        return self.beyond + inside

    def most_frequent(self, count: int) -> list[tuple[int, int]]:
        """Return the ``count`` most frequent ids and how often they came; ties by id."""
        import numpy as np

        if self.counts is None:
            return []
        order = np.argsort(-self.counts, kind="stable")[:count]
        return [(int(i), int(self.counts[i])) for i in order if self.counts[i]]

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return self.lengths.total()

    def document_lengths(self) -> dict[str, float] | None:
        """Return min, median, mean and max of the documents' tokens, None without documents."""
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
    """Mean, spread and extremes of the finite values of a tensor, and how many are not finite.

    The pieces are combined by Chan, Golub and LeVeque's formula (1979), so that a small spread
    around a large mean survives.
    """

    count: int = 0
    nan: int = 0
    infinite: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: NDArray[Any]) -> None:
        """Take in a piece (n,) of any floating or integer type."""
        import numpy as np

        with np.errstate(all="ignore"):  # damage may be a signalling NaN, or as large as a float64
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
        """Return mean, std, min, max, NaN and infinity counts, as tables show them."""
        if not self.count:
            return (None, None, None, None, self.nan, self.infinite)
        return (self.mean, self.std, self.low, self.high, self.nan, self.infinite)


MOMENT_COLUMNS = (">mean", ">std", ">min", ">max", ">NaN", ">inf")
