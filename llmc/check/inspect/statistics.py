"""Statistics of streams of tokens and of weights, in memory that does not grow with the file."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_IDS = 1 << 24  # llmc's largest vocabulary; larger ids are only counted

Ids = NDArray[np.unsignedinteger[Any]]


@dataclass
class TokenCounts:
    """The frequency of each id, and the lengths of documents."""

    eot: int | None = None  # the id between documents; None: documents are not counted
    tokens: int = 0  # the number of tokens
    # (n,) int64, the frequency of each id.
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    beyond: int = 0  # the number of tokens with ids of ``MOST_IDS`` or more
    # Length of a document -> number of documents. n tokens have at most sqrt(2n) different lengths,
    # so this stays small.
    lengths: Counter[int] = field(default_factory=Counter)
    _open: int = 0  # tokens since the last eot
    _before: bool = False  # an eot has been seen
    _cut: bool = False  # the tokens up to the next eot are a part of a document

    def add(self, ids: Ids) -> None:
        """Count a stretch (n,) of tokens that follows the last one."""
        self.tokens += ids.size
        known = ids[ids < MOST_IDS] if ids.dtype.itemsize > 2 else ids
        self.beyond += ids.size - known.size
        counted = np.bincount(known, minlength=len(self.counts))
        counted[: len(self.counts)] += self.counts
        self.counts = counted
        if self.eot is not None:
            self._add_lengths(ids)

    def _add_lengths(self, ids: Ids) -> None:
        places = np.flatnonzero(ids == self.eot)
        if not places.size:
            self._open += ids.size
            return
        first = self._open + int(places[0])
        if not self._cut and (first or self._before):  # no tokens before the first eot: no document
            self.lengths[first] += 1
        values, numbers = np.unique(np.diff(places) - 1, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            self.lengths[value] += number
        self._open = ids.size - 1 - int(places[-1])
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
        return int(np.count_nonzero(self.counts))

    @property
    def largest(self) -> int | None:
        """The largest id below ``MOST_IDS``; ``None`` where there is no token."""
        used = np.flatnonzero(self.counts)
        return int(used[-1]) if used.size else None

    def above(self, vocab_size: int) -> int:
        """Return the number of tokens outside a vocabulary."""
        return self.beyond + int(self.counts[vocab_size:].sum())

    def most_frequent(self, count: int) -> list[tuple[int, int]]:
        """Return the ``count`` most frequent ids and their frequencies; ties by id."""
        order = np.argsort(-self.counts, kind="stable")[:count].tolist()
        return [(i, int(self.counts[i])) for i in order if self.counts[i]]

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
        low, high = (ordered[bisect_right(ends, at)] for at in ((count - 1) // 2, count // 2))
        mean = sum(n * times for n, times in self.lengths.items()) / count
        return {"min": ordered[0], "median": (low + high) / 2, "mean": mean, "max": ordered[-1]}


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

    def finite(self, values: NDArray[Any]) -> NDArray[Any]:
        """Count the NaNs and infinities of a piece (n,), and return the others."""
        finite = np.isfinite(values)
        if finite.all():
            return values
        nan = int(np.isnan(values).sum())
        self.nan += nan
        self.infinite += int(values.size - finite.sum()) - nan
        kept: NDArray[Any] = values[finite]
        return kept

    @np.errstate(all="ignore")  # for signalling NaNs in damaged files
    def add(self, values: NDArray[Any]) -> None:
        """Add a piece (n,) of any floating or integer type."""
        wide = self.finite(values).astype(np.float64)
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
        """Return mean, std, min, max, NaNs and infinities; each None if no value was read."""
        if not self.count + self.nan + self.infinite:
            return (None,) * len(MOMENT_COLUMNS)
        numbers = (self.mean, self.std, self.low, self.high) if self.count else (None,) * 4
        return (*numbers, self.nan, self.infinite)


MOMENT_COLUMNS = (">mean", ">std", ">min", ">max", ">NaN", ">inf")
