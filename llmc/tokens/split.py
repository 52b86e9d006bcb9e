"""The cut between the validation and the training tokens of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmc.errors import BadData, Usage
from llmc.report import Report
from llmc.text.source import VAL_FRACTION
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


def check_split(val_tokens: int | None, val_fraction: float | None) -> None:
    """Check the requested size of the validation split.

    Raises:
        Usage: both are given, or one is out of its range.
    """
    if val_tokens is not None and val_fraction is not None:
        raise Usage("--val-tokens and --val-fraction exclude each other: give one")
    if val_tokens is not None and val_tokens < MIN_TOKENS:
        raise Usage(f"--val-tokens must be at least {MIN_TOKENS}, not {val_tokens}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise Usage(f"--val-fraction must lie between 0 and 1, not be {val_fraction:g}")


def choose_cut(
    name: str,
    val_tokens: int | None,
    val_fraction: float | None,
    *,
    default: int | None = None,
    has_own_val: bool = False,
    report: Report,
) -> Cut:
    """Return where to cut off the validation split; report a default.

    Args:
        name: the dataset, for messages.
        val_tokens: the requested number of validation tokens.
        val_fraction: the requested fraction.
        default: the dataset's own number of validation tokens.
        has_own_val: the dataset has a validation text; the cut is then not used.
        report: receives the default that was chosen.

    Raises:
        Usage: a split is requested of a dataset that has its own.
    """
    if has_own_val:
        if val_tokens is not None or val_fraction is not None:
            raise Usage(
                f"{name} has a validation text of its own: "
                "leave out --val-tokens and --val-fraction"
            )
        report.note(f"validation: {name}'s own validation text")
        return Cut()
    if val_fraction is not None:
        return Cut(fraction=val_fraction)
    if val_tokens is not None:
        return Cut(val_tokens)
    if default is not None:
        report.note(f"validation: the first {default:,} tokens (--val-tokens)")
        return Cut(default)
    report.note(
        f"validation: the first {VAL_FRACTION:.0%} of the tokens, at most {MOST_VAL_TOKENS:,} "
        "(--val-fraction)"
    )
    return Cut(fraction=VAL_FRACTION, most=MOST_VAL_TOKENS)


def too_little(name: str, train: int, val: int) -> BadData:
    """Return the error for a text that is too small for both splits."""
    return BadData(
        f"'{name}' is too little text: {train + val:,} tokens leave {val:,} to validate on "
        f"and {train:,} to train on; add text or change --val-tokens or --val-fraction"
    )
