"""Read and encode a text on several threads; the tokens come in the order of the text.

The work is cut into tasks, and the cuts depend on the text alone. The tokens are therefore the same
for any number of workers, and a position in the stream can be found again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.text.source import Part, documents_of
from llmc.tokens.encode import Batch, Encode, Encoded, batches
from llmc.tokens.runs import Unencodable, naming

if TYPE_CHECKING:
    from llmc.tokens.masks import Marked

# The workers read parts up to this size, several in one task. Larger parts are read on the calling
# thread, a batch for each task, so that one large file keeps all workers busy.
UNIT_BYTES = 1 << 19


@dataclass(frozen=True)
class Position:
    """A place in a stream of tokens."""

    part: int = 0  # the part in which the task of the place begins
    batch: int = 0  # the number of the task among those that begin in this part
    skip: int = 0  # the tokens of the task before the place


@dataclass(frozen=True)
class Task:
    """Work for one thread."""

    position: Position  # where in the stream its tokens begin
    run: Callable[[], Encoded]  # reads and encodes; may raise what a reader raises
    size: int  # bytes of the source, for progress


# Yields the tasks from a position on, first the one that contains it.
Feed = Callable[[Position], Iterator[Task]]


def text_tasks(
    parts: Sequence[Part], encode: Encode, cuts: re.Pattern[str] | None, start: Position
) -> Iterator[Task]:
    """Yield the tasks of reading and encoding ``parts``; documents are cut at ``cuts``."""
    first = start.part
    while first < len(parts):
        last, size = first, 0
        while last < len(parts) and (next_size := parts[last].bytes) is not None:
            if size + next_size > UNIT_BYTES:
                break
            last, size = last + 1, size + next_size
        if last > first:
            unit = parts[first:last]
            yield Task(Position(first), partial(_read_and_encode, unit, encode, cuts), size)
            first = last
        else:
            skipped = start.batch if first == start.part else 0
            yield from _batch_tasks(parts[first], first, skipped, encode, cuts)
            first += 1


def _batch_tasks(
    part: Part, index: int, skipped: int, encode: Encode, cuts: re.Pattern[str] | None
) -> Iterator[Task]:
    """Read a large part on this thread for the workers to encode; the sizes add up to its own."""
    left, size = part.bytes, 0
    held: Task | None = None
    for number, batch in enumerate(batches(part.texts(), cuts)):
        read = sum(len(text) for _, text in batch)
        if left is not None:
            read = min(read, left)
            left -= read
        size += read
        if number < skipped:
            continue
        if held is not None:
            yield held
        run = partial(_encode_named, part.name, batch, encode)
        held, size = Task(Position(index, number), run, size), 0
    if held is not None:
        yield replace(held, size=held.size + (left or 0))


def _encode_named(name: str, batch: Batch, encode: Encode) -> Encoded:
    with naming(name):
        return encode(batch)


def _read_and_encode(unit: Sequence[Part], encode: Encode, cuts: re.Pattern[str] | None) -> Encoded:
    import numpy as np

    try:
        made = [encode(batch) for batch in batches(documents_of(unit), cuts)] or [encode([])]
    except Unencodable as error:
        for part in unit:  # which of them is it?
            for batch in batches(documents_of([part]), cuts):
                _encode_named(part.name, batch, encode)
        raise BadData(f"{unit[0].name} to {unit[-1].name}: {error}") from error
    ids = np.concatenate([encoded.ids for encoded in made])
    return Encoded(ids, sum(encoded.text_bytes for encoded in made))


def in_order(tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, Encoded]]:
    """Run tasks on threads and yield their results in order, as soon as they are there.

    At most ``2 * workers + 2`` tasks run ahead, which bounds the memory. However the iteration
    ends, no further task starts.
    """
    ahead = 2 * workers + 2
    waiting: deque[tuple[Task, Future[Encoded]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as pool:
        try:
            for task in tasks:
                waiting.append((task, pool.submit(task.run)))
                while waiting and (len(waiting) > ahead or waiting[0][1].done()):
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Stream:
    """Tokens in order, in any amounts.

    Attributes:
        position: the place of the next token, or the end.
        text_bytes: UTF-8 bytes of the tasks before the current one.
    """

    def __init__(
        self, feed: Feed, start: Position, workers: int, advance: Callable[[int], object]
    ) -> None:
        """Start at a position; ``advance`` takes the size of each finished task."""
        self.position = start
        self.text_bytes = 0
        self._source = in_order(feed(start), workers)
        self._advance = advance
        self._current: Encoded | None = None

    def take(self, most: int) -> Iterator[Marked]:
        """Yield arrays (n,) of ids, at most ``most`` ids in all; raise what a reader raises."""
        while most > 0 and self.more():
            assert self._current is not None
            ids = self._current.ids[self.position.skip : self.position.skip + most]
            most -= len(ids)
            self.position = replace(self.position, skip=self.position.skip + len(ids))
            yield ids

    def more(self) -> bool:
        """Return whether there are more tokens, after reading on; raise what a reader raises."""
        while self._current is None or self.position.skip >= len(self._current.ids):
            step = next(self._source, None)
            if step is None:
                return False
            task, encoded = step
            if self._current is not None:
                self.text_bytes += self._current.text_bytes
            if self._current is not None or task.position != replace(self.position, skip=0):
                self.position = task.position
            self._current = encoded
            self._advance(task.size)
        return True

    @property
    def all_text_bytes(self) -> int:
        """UTF-8 bytes of all tasks so far: of the whole text, at its end."""
        return self.text_bytes + (self._current.text_bytes if self._current is not None else 0)

    def close(self) -> None:
        """Stop the tasks."""
        self._source.close()  # type: ignore[attr-defined]
