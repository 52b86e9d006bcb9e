"""Requests together in one engine: who gets in, and how events come from its thread to asyncio."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import ceil

from llmc.engine.generator import Generator
from llmc.engine.protocol import End, Request, Token
from llmc.errors import LlmcError, Usage
from llmc.serve.refusals import BROKEN, BUSY, Refused

Told = tuple[int, Token | End]
MOST_SECONDS_TO_WAIT = 60


class EngineBatch:
    """The engine, as far as the server is concerned; belongs to one event loop.

    Attributes:
        capacity: completions that may be open at a time: those in slots and those that wait.
        open: completions that the engine has not ended yet.
        running: of these, how many it has begun to write.
        draining: nothing new is taken: the server ends, and only requests that had begun come here.
    """

    def __init__(self, generator: Generator, queue: int) -> None:
        """Take over a started generator; call it inside the event loop."""
        self.generator = generator
        self.capacity = generator.ready.slots + queue
        self.open = 0
        self.running = 0
        self.draining = False
        self._jobs: set[Job] = set()
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[Job, int, Token | End]] = deque()
        self._woken = False
        self._seconds = 1.0  # that a completion is in its slot, as the last ones were

    @property
    def failure(self) -> LlmcError | None:
        """Why the engine has ended; None while it lives."""
        return self.generator.failure

    def submit(self, requests: Sequence[Request]) -> Job:
        """Have the engine write several texts.

        Raises:
            Refused: there is no room now, the engine is dead or takes no such prompt, or the server
                is about to end.
        """
        if self.failure is not None:
            raise engine_is_dead(self.failure)
        if self.draining:
            raise Refused(503, "The server is shutting down", kind=BROKEN, code="shutting_down")
        if self.open + len(requests) > self.capacity:
            raise Refused(
                429,
                f"The server is busy: {self.open} completions are being written or wait, and "
                f"{self.capacity} may",
                kind=BUSY,
                code="queue_full",
                headers={"Retry-After": str(self.seconds_to_wait())},
            )
        job = Job(self, len(requests))
        try:
            for index, request in enumerate(requests):
                deliver = partial(self._deliver, job, index)
                job.names.append(self.generator.submit(request, deliver))
                self.open += 1
        except LlmcError as error:
            job.cancel()  # what was submitted before it
            if isinstance(error, Usage):
                raise Refused(400, str(error), param="prompt") from error
            raise engine_is_dead(error) from error
        self._jobs.add(job)
        return job

    def seconds_to_wait(self) -> int:
        """Return a guess of when a slot is free, in whole seconds."""
        rounds = max(1.0, self.open / self.generator.ready.slots)
        return max(1, min(MOST_SECONDS_TO_WAIT, ceil(self._seconds * rounds)))

    def cancel_all(self, why: str) -> None:
        """End everything that is being written, with an error."""
        for job in list(self._jobs):
            for index in sorted(job.missing):
                job.put(index, End("error", message=why))
            job.cancel()

    def _deliver(self, job: Job, index: int, event: Token | End) -> None:
        """Take an event in the engine's thread; one call into the loop carries many."""
        self._inbox.append((job, index, event))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._sort)

    def _sort(self) -> None:
        """Hand what has come to the jobs."""
        self._woken = False
        while self._inbox:
            job, index, event = self._inbox.popleft()
            if isinstance(event, End):
                self._end(job, index)
            elif index not in job.started:
                job.started[index] = time.monotonic()
                self.running += 1
            job.put(index, event)

    def _end(self, job: Job, index: int) -> None:
        self.open -= 1
        job.ended.add(index)
        if len(job.ended) == job.count:
            self._jobs.discard(job)
        if index in job.started:
            self.running -= 1
            self._seconds += 0.1 * (time.monotonic() - job.started[index] - self._seconds)


class Job:
    """The texts of one request.

    Attributes:
        count: how many there are.
        names: what the engine calls them.
        began: when they were asked for, by the monotonic clock.
        started: when the first token of each came, by the monotonic clock.
        ended: those that the engine has ended.
        missing: those whose end has not been told yet.
    """

    def __init__(self, batch: EngineBatch, count: int) -> None:
        """Expect the events of ``count`` texts."""
        self.count = count
        self.names: list[str] = []
        self.began = time.monotonic()
        self.started: dict[int, float] = {}
        self.ended: set[int] = set()
        self.missing = set(range(count))
        self._batch = batch
        self._events: list[Told] = []
        self._came = asyncio.Event()
        self._all = asyncio.Event()

    def put(self, index: int, event: Token | End) -> None:
        """Add an event for :meth:`next`; nothing is added to what was told to be at its end."""
        if index in self.missing:
            if isinstance(event, End):
                self.missing.discard(index)
                if not self.missing:
                    self._all.set()
            self._events.append((index, event))
            self._came.set()

    async def next(self) -> list[Told]:
        """Wait for events and return all there are: many at once where the reader is slow."""
        await self._came.wait()
        self._came.clear()
        events, self._events = self._events, []
        return events

    async def rest(self, seconds: float) -> None:
        """Let events gather for a time; no longer than until all texts have ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all.wait()

    def finish(self, index: int) -> None:
        """Want no more of one text: a stop string has come."""
        if index in self.missing:
            self.missing.discard(index)
            self._batch.generator.cancel(self.names[index])

    def cancel(self) -> None:
        """Want no more of any: free the slots. What has ended is left alone."""
        self.missing.clear()
        for index, name in enumerate(self.names):
            if index not in self.ended:
                self._batch.generator.cancel(name)


def engine_is_dead(why: LlmcError) -> Refused:
    """Return the refusal of everything once the engine has ended."""
    return Refused(503, f"The engine has ended: {why}", kind=BROKEN, code="engine_dead")
