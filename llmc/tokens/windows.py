"""Windows that begin with conversations, or aligned ones with documents: the engine's rule.

``native/files/cuts.h`` states it. A window that begins at token p predicts p + 1 … p + T; the next
one begins at the last token of these where a conversation begins, else the last where a turn
begins, else at p + T. Targets count in the window that ends with or after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmc.errors import BadData
from llmc.tokens.files import has_mask, read_mask, read_tokens
from llmc.tokens.masks import CONVERSATION, COUNTS, TURN
from llmc.tokens.split import Joined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmc.tokens.masks import Mask

TRIED, SHORT = 64, 48  # conversations that are looked at, and tokens of a short question


class CutWindow(NamedTuple):
    """A window: its first token, its targets (start + 1 … start + length), those that count."""

    start: int
    length: int
    counted: int


def cut_windows(mask: Mask, T: int) -> Iterator[CutWindow]:
    """Yield the windows of a stream (n,) that have a target that counts, in order."""
    import numpy as np

    begun = [np.flatnonzero(mask & bit) for bit in (CONVERSATION, TURN)]
    counts = (mask & COUNTS).astype(bool)
    for start, length in _cuts(len(mask), begun, T):
        counted = int(np.count_nonzero(counts[start + 1 : start + length + 1]))
        if counted:
            yield CutWindow(start, length, counted)


def _cuts(count: int, begun: Sequence[NDArray[np.intp]], T: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the targets of each window of a stream, counted or not.

    ``begun`` are the sorted places where conversations begin, then those where turns do.
    """
    start, last = 0, count - 1
    while start < last:
        end = min(start + T, last)
        if end < last:
            found = (_last_in(places, start, end) for places in begun)
            end = next((place for place in found if place is not None), end)
        yield start, end - start
        start = end


def _last_in(places: NDArray[np.intp], after: int, until: int) -> int | None:
    """Return the last of the sorted places with ``after`` < place <= ``until``."""
    import numpy as np

    at = int(np.searchsorted(places, until, "right"))
    return int(places[at - 1]) if at and places[at - 1] > after else None


def mask_of(files: Sequence[Path]) -> Mask | None:
    """Return the mask (n,) of a stream of token files; None: all tokens count.

    Raises:
        BadData: some files have a mask and others have none, or a file is damaged.
    """
    import numpy as np

    masked = {file: has_mask(file) for file in files}
    if not any(masked.values()):
        return None
    if not all(masked.values()):
        with_mask, without = (next(f for f in files if masked[f] is kind) for kind in (True, False))
        raise BadData(
            f"{with_mask} has a mask, and {without} has none: they are of different datasets; "
            "name one"
        )
    return np.concatenate([read_mask(file) for file in files])


def count_windows(files: Sequence[Path], tokens: int, T: int, eot: int | None = None) -> int:
    """Return the windows of T tokens in a stream of token files: those of an epoch, at least 1.

    With ``eot``, which begins documents, a text without a mask has aligned windows.

    Raises:
        BadData: as in :func:`mask_of`, or no token counts.
    """
    if eot is None and not any(map(has_mask, files)):
        return max(-(-(tokens - 1) // T), 1)
    return _count_cut(tuple((file, file.stat().st_mtime_ns) for file in files), T, eot)


@lru_cache(maxsize=64)
def _count_cut(files: tuple[tuple[Path, int], ...], T: int, eot: int | None) -> int:
    names = [file for file, _ in files]
    mask = mask_of(names)
    if mask is None and eot is not None:
        joined = Joined(names)
        count = int(joined.starts[-1])
        return sum(1 for _ in _cuts(count, [joined.positions(eot, 0, count)], T))
    windows = 0 if mask is None else sum(1 for _ in cut_windows(mask, T))
    if not windows:
        raise BadData(
            f"{names[0]} has a mask, and the loss counts at none of its tokens: name another text"
        )
    return windows


def sample_question(files: Sequence[Path]) -> tuple[int, ...]:
    """Return the tokens of a conversation before its first answer, to show what a model answers.

    It is the first of a text, or the first that is short; empty without conversations.
    """
    import numpy as np

    if not files or not has_mask(files[0]):
        return ()
    ids, mask = read_tokens(files[0]), read_mask(files[0])
    counted = np.flatnonzero(mask & COUNTS)
    questions = []
    for start in np.flatnonzero(mask & CONVERSATION)[:TRIED]:
        at = np.searchsorted(counted, start)
        if at < len(counted) and counted[at] > start + 1:
            questions.append((int(start), int(counted[at])))
    short = [each for each in questions if each[1] - each[0] <= SHORT]
    start, end = next(iter(short or questions), (0, 0))
    return tuple(ids[start:end].tolist())
