"""From the losses of single tokens to mean loss, perplexity, bits per byte and standard errors.

``docs/guide/eval.md`` defines every number and explains the choice of units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from llmc.errors import BadData
from llmc.units import finite, plus_minus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_DOCUMENTS = 10  # with fewer, the variance between documents is not estimated well
MOST_BLOCKS = 30  # blocks of windows, when there are fewer documents


@dataclass(frozen=True)
class Ratio:
    """A mean loss per token or per byte, over units that are assumed independent."""

    value: float
    error: float | None  # standard error; None with fewer than two units

    def shown(self, scale: float = 1, digits: int = 4) -> str:
        """Return ``value ± error`` times ``scale``, or the value alone."""
        error = scale * self.error if self.error is not None else None
        return plus_minus(scale * self.value, error, digits)


def ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> Ratio:
    """Return the sum of ``sums`` (n,) over that of ``sizes`` (n,), and its standard error.

    The n units are drawn independently, their sizes with them: the ratio estimator of Cochran,
    Sampling Techniques (1977), chapter 6, which is the cluster-robust error of a mean.
    """
    n, total = len(sums), sizes.sum()
    value = float(sums.sum() / total)
    if n < 2:
        return Ratio(value, None)
    residuals = sums - value * sizes
    return Ratio(value, math.sqrt(n / (n - 1) * float(residuals @ residuals)) / float(total))


def student_t95(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t.

    The first terms of Abramowitz and Stegun 26.7.5: within 1 % from 3 degrees of freedom on.
    """
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def proportion(hits: int, n: int) -> Ratio:
    """Return ``hits / n`` and its standard error, for independent examples."""
    p = hits / n
    return Ratio(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None)


# Nats, tokens and bytes of text of some tokens.
Sums = tuple[float, float, float]


@dataclass
class Tally:
    """Adds up the losses of consecutive tokens by document and by row.

    A document includes the end-of-text token after it: predicting where a document ends is part
    of predicting it. That token has no bytes.
    """

    eot: int | None = None  # the id of end-of-text; None: documents are not separated
    sizes: NDArray[np.int64] | None = None  # bytes of each token, (V,); None: unknown
    _rows: list[Sums] = field(default_factory=list)
    _documents: list[Sums] = field(default_factory=list)
    _ended: bool = True
    _has_gaps: bool = False

    @property
    def tokens(self) -> int:
        """Number of losses added so far."""
        return int(sum(row[1] for row in self._rows))

    def begin_piece(self) -> None:
        """Begin a piece of the text that does not follow the one before.

        Its documents are cut off then: the units are windows.
        """
        self._ended = True
        self._has_gaps = bool(self._rows)

    def add(self, targets: NDArray[np.integer[Any]], losses: Sequence[float | None]) -> None:
        """Add a row: the predicted tokens, (n,), and their losses; None: it does not count.

        Raises:
            BadData: a token is not in the vocabulary.
        """
        import numpy as np

        nats = np.array(losses, float)  # None becomes NaN
        counts = ~np.isnan(nats)
        nats, sizes = np.where(counts, nats, 0), self._bytes(targets) * counts
        ends = np.flatnonzero(targets == self.eot) + 1 if self.eot is not None else ()
        self._rows.append((float(nats.sum()), float(counts.sum()), float(sizes.sum())))
        for begin, end in pairwise([0, *ends, len(nats)]):
            if begin == end:
                continue  # the row ends with a document
            each = (values[begin:end].sum() for values in (nats, counts, sizes))
            part = cast("Sums", tuple(map(float, each)))
            if self._ended:
                self._documents.append(part)
            else:
                self._documents[-1] = _added(self._documents[-1], part)
            self._ended = self.eot is not None and bool(targets[end - 1] == self.eot)

    def _bytes(self, targets: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        import numpy as np

        if self.sizes is None:
            return np.zeros(len(targets), np.int64)
        if targets.max() >= len(self.sizes):
            raise BadData(
                f"token {targets.max()} is not in the tokenizer's vocabulary of {len(self.sizes)}: "
                "use a token file made with the model's tokenizer"
            )
        found: NDArray[np.int64] = self.sizes[targets]
        return found

    def units(self, least: int) -> tuple[str, NDArray[np.float64]]:
        """Return the name of the units, and their sums (n, 3): nats, tokens, bytes.

        Units are documents; neighbours are joined until they have ``least`` tokens, which is the
        length of a row. If that gives fewer than 10, units are up to 30 blocks of rows. Rows with
        gaps between them are units themselves.
        """
        import numpy as np

        if self._has_gaps:
            return "windows", np.array(self._rows)
        units: list[Sums] = []
        for document in self._documents:
            if units and units[-1][1] < least:
                units[-1] = _added(units[-1], document)
            else:
                units.append(document)
        if len(units) > 1 and units[-1][1] < least:  # the last unit may be short
            units[-2:] = [_added(*units[-2:])]
        if len(units) < LEAST_DOCUMENTS:
            blocks = np.array_split(np.array(self._rows), min(MOST_BLOCKS, len(self._rows)))
            name = "windows" if len(blocks) == len(self._rows) else "blocks of windows"
            return name, np.array([block.sum(axis=0) for block in blocks])
        alone = len(units) == len(self._documents)
        return ("documents" if alone else "groups of documents"), np.array(units)


def _added(a: Sums, b: Sums) -> Sums:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@dataclass(frozen=True)
class Score:
    """The loss over a text."""

    loss: Ratio  # nats per token
    bits_per_byte: Ratio | None  # None if the tokenizer is unknown or no byte was predicted
    tokens: int  # predicted
    text_bytes: int | None  # bytes of text in these tokens; None if unknown
    unit: str  # the independent units: documents, groups of documents, windows, blocks of windows
    units: int  # number of units

    @property
    def perplexity(self) -> float:
        """The exponential of the loss; infinite if it overflows."""
        return _exp(self.loss.value)

    @property
    def perplexity_interval(self) -> tuple[float, float] | None:
        """95 % interval of the perplexity; None without a standard error."""
        if self.loss.error is None:
            return None
        width = student_t95(self.units - 1) * self.loss.error
        return _exp(self.loss.value - width), _exp(self.loss.value + width)

    def fields(self) -> Mapping[str, Any]:
        """Return the fields of ``--json``; docs/guide/eval.md explains them."""
        bits, interval = self.bits_per_byte, self.perplexity_interval
        return {
            "loss": self.loss.value,
            "loss_error": self.loss.error,
            "perplexity": finite(self.perplexity),
            "perplexity_interval": interval and [*map(finite, interval)],
            "bits_per_byte": bits.value if bits is not None else None,
            "bits_per_byte_error": bits.error if bits is not None else None,
            "tokens": self.tokens,
            "text_bytes": self.text_bytes,
            "unit": self.unit,
            "units": self.units,
        }


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def mixed_score(tallies: Sequence[Tally], weights: Sequence[float], least: int) -> Score:
    """Return the score of a mixture of texts, whose weights add up to 1.

    The loss is the mean of the texts' losses by weight. The texts are strata (Cochran, chapter 5):
    the squared errors add up, each times the square of its weight.
    """
    if len(tallies) == 1:
        return score(tallies[0], least)
    each = [score(tally, least) for tally in tallies]
    loss = _mean([one.loss for one in each], weights)
    known = all(one.text_bytes is not None for one in each)
    text_bytes = sum(one.text_bytes or 0 for one in each) if known else None
    per_token = math.fsum(
        weight * (one.text_bytes or 0) / one.tokens
        for one, weight in zip(each, weights, strict=True)
    )
    bits = None
    if known and per_token > 0:
        value = loss.value / math.log(2) / per_token
        rests = []
        for tally in tallies:
            nats, tokens, sizes = tally.units(least)[1].T
            rests.append(ratio(nats / math.log(2) - value * sizes, tokens))
        error = _mean(rests, weights).error
        bits = Ratio(value, error / per_token if error is not None else None)
    unit = " and ".join(dict.fromkeys(one.unit for one in each))
    tokens_in_all, units = sum(one.tokens for one in each), sum(one.units for one in each)
    return Score(loss, bits, tokens_in_all, text_bytes, unit, units)


def _mean(strata: Sequence[Ratio], weights: Sequence[float]) -> Ratio:
    """Return the mean of means by weight, and its standard error."""
    pairs = [*zip(strata, weights, strict=True)]
    squares = [(weight * one.error) ** 2 for one, weight in pairs if one.error is not None]
    error = math.sqrt(math.fsum(squares)) if len(squares) == len(pairs) else None
    return Ratio(math.fsum(weight * one.value for one, weight in pairs), error)


def score(tally: Tally, least: int) -> Score:
    """Return the score of a tally with at least one row; ``least`` as in :meth:`Tally.units`."""
    unit, sums = tally.units(least)
    nats, tokens, sizes = sums.T
    known = tally.sizes is not None
    bits = ratio(nats / math.log(2), sizes) if known and sizes.sum() > 0 else None
    text_bytes = int(sizes.sum()) if known else None
    return Score(ratio(nats, tokens), bits, tally.tokens, text_bytes, unit, len(sums))
