"""The cut between the validation and the training tokens of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmc.tokens.files import TokenFile, read_tokens

MIN_TOKENS = 2  # an input and its target
# A fraction of a large set is more than a validation ever reads.
MOST_VAL_TOKENS = 10_000_000
SLICE = 1 << 20


@dataclass(frozen=True)
class Cut:
    """The size of the validation split, which is the start of the token stream.

    Attributes:
        tokens: exactly this many tokens; None: a fraction.
        fraction: this fraction of the tokens, moved to the nearest start of a document.
        most: the maximum number of tokens of a fraction.
    """

    tokens: int | None = None
    fraction: float = 0.1
    most: int | None = None

    def at(self, files: Sequence[TokenFile], eot: int) -> int:
        """Return the size of the validation split of the tokens in ``files``.

        A count is exact, as llm.c's; a fraction moves to the nearest start of a document, if that
        changes it by less than half.
        """
        total = sum(file.tokens for file in files)
        if self.tokens is not None:
            return min(self.tokens, total)
        target = round(self.fraction * total)
        if self.most is not None:
            target = min(target, self.most)
        found = _nearest(files, eot, target, target // 2 + 1, min(total, target + target // 2))
        return target if found is None else found


def _nearest(
    files: Sequence[TokenFile], token: int, target: int, low: int, high: int
) -> int | None:
    """Return the position in low … high - 1 that holds ``token`` and is nearest to ``target``.

    The search widens from the target outwards: it seldom goes far. Of two as near, the first.
    """
    reach = SLICE
    while low < high:
        start, end = max(low, target - reach), min(high, target + reach + 1)
        best = None
        for at in _positions(files, token, start, end):
            if best is None or abs(at - target) < abs(best - target):
                best = at
        if best is not None or (start == low and end == high):
            return best
        reach *= 4
    return None


def _positions(files: Sequence[TokenFile], token: int, start: int, end: int) -> Iterator[int]:
    import numpy as np

    first = 0
    for file in files:
        low, high = max(start - first, 0), min(end - first, file.tokens)
        ids = read_tokens(file.path) if low < high else ()
        for at in range(low, high, SLICE):
            found = np.flatnonzero(np.asarray(ids[at : min(at + SLICE, high)]) == token)
            yield from (int(place) + at + first for place in found)
        first += file.tokens
