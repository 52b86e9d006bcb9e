"""What the losses of single tokens add up to: mean, perplexity, bits per byte, how sure they are.

``docs/guide/eval.md`` defines every number and says why the units are what they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llmc.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmc.tokens.tokenizer import Tokenizer

LEAST_DOCUMENTS = 10  # fewer tell little of how documents differ
MOST_BLOCKS = 30  # of windows, where there are fewer documents


@dataclass(frozen=True)
class Ratio:
    """A mean loss per token or per byte, over units that are taken as independent.

    Attributes:
        value: total over total.
        error: its standard error; None where there are fewer than two units.
    """

    value: float
    error: float | None


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
    """Return what Student's t exceeds, up or down, with probability 0.05.

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
    """Return ``hits`` of ``n`` and its standard error, the examples being independent."""
    p = hits / n
    return Ratio(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None)


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return how many bytes of text each token stands for, (V,); end-of-text stands for none."""
    import numpy as np

    sizes = np.zeros(tokenizer.vocab_size, np.int64)
    for token, number in tokenizer.ranks.items():
        sizes[number] = len(token)
    return sizes


# Nats, tokens and bytes of text of some tokens.
Sums = tuple[float, float, float]


@dataclass
class Tally:
    """Adds up the losses of consecutive tokens by document and by row.

    A document ends with the end-of-text token after it. That token's loss is the document's, as
    it tells where the document ends; it stands for no bytes.

    Attributes:
        eot: the id of end-of-text; None: documents are not told apart.
        sizes: bytes of each token, (V,); None: not known.
    """

    eot: int | None = None
    sizes: NDArray[np.int64] | None = None
    _rows: list[Sums] = field(default_factory=list)
    _documents: list[Sums] = field(default_factory=list)
    _ended: bool = True

    @property
    def tokens(self) -> int:
        """How many losses were taken in."""
        return int(sum(row[1] for row in self._rows))

    def begin_file(self) -> None:
        """Begin another file: no document goes over from one to the next."""
        self._ended = True

    def add(self, targets: NDArray[np.integer[Any]], losses: Sequence[float]) -> None:
        """Take in a row: the tokens that were predicted, (n,), and their losses.

        Raises:
            BadData: a token is not in the vocabulary.
        """
        import numpy as np

        nats, sizes = np.array(losses), self._bytes(targets)
        ends = np.flatnonzero(targets == self.eot) + 1 if self.eot is not None else ()
        self._rows.append((float(nats.sum()), float(len(nats)), float(sizes.sum())))
        for begin, end in pairwise([0, *ends, len(nats)]):
            if begin == end:
                continue  # the row ends with a document
            part = float(nats[begin:end].sum()), float(end - begin), float(sizes[begin:end].sum())
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
                "name a token file that was made with the model's tokenizer"
            )
        found: NDArray[np.int64] = self.sizes[targets]
        return found

    def units(self, least: int) -> tuple[str, NDArray[np.float64]]:
        """Return what the units are called, and their sums (n, 3): nats, tokens, bytes.

        They are documents, neighbours put together until they hold ``least`` tokens, which is a
        row's length. Where that gives fewer than 10, they are up to 30 blocks of neighbouring rows.
        """
        import numpy as np

        units: list[Sums] = []
        for document in self._documents:
            if units and units[-1][1] < least:
                units[-1] = _added(units[-1], document)
            else:
                units.append(document)
        if len(units) > 1 and units[-1][1] < least:  # the last one may be left short
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
    """The loss over a stretch of text.

    Attributes:
        loss: nats per token.
        bits_per_byte: of text; None where the tokenizer is not known, or the text is empty.
        tokens: predicted.
        text_bytes: what they stand for; None where that is not known.
        unit: what is taken as independent: documents, groups of short ones, windows or blocks.
        units: how many there are.
    """

    loss: Ratio
    bits_per_byte: Ratio | None
    tokens: int
    text_bytes: int | None
    unit: str
    units: int

    @property
    def perplexity(self) -> float:
        """The exponential of the loss; infinite where that is too large a number."""
        return _exp(self.loss.value)

    @property
    def perplexity_interval(self) -> tuple[float, float] | None:
        """The exponentials of the ends of the loss's 95 % interval."""
        if self.loss.error is None:
            return None
        width = student_t95(self.units - 1) * self.loss.error
        return _exp(self.loss.value - width), _exp(self.loss.value + width)

    def fields(self) -> Mapping[str, Any]:
        """Return all of it, for ``--json``; docs/guide/eval.md says what the names mean."""
        bits, interval = self.bits_per_byte, self.perplexity_interval
        return {
            "loss": self.loss.value,
            "loss_error": self.loss.error,
            "perplexity": _finite(self.perplexity),
            "perplexity_interval": interval and [*map(_finite, interval)],
            "bits_per_byte": bits.value if bits is not None else None,
            "bits_per_byte_error": bits.error if bits is not None else None,
            "tokens": self.tokens,
            "text_bytes": self.text_bytes,
            "unit": self.unit,
            "units": self.units,
        }


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None  # JSON knows no infinity


def score(tally: Tally, least: int) -> Score:
    """Return what a tally of at least one row adds up to; ``least`` as :meth:`Tally.units`."""
    unit, sums = tally.units(least)
    nats, tokens, sizes = sums.T
    known = tally.sizes is not None
    bits = ratio(nats / math.log(2), sizes) if known and sizes.sum() > 0 else None
    text_bytes = int(sizes.sum()) if known else None
    return Score(ratio(nats, tokens), bits, tally.tokens, text_bytes, unit, len(sums))
