"""Requests that share one engine: admission, and events from its thread to asyncio."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil

from llmc.engine.generator import Generator
from llmc.engine.protocol import End, Request, Token
from llmc.errors import LlmcError, Usage
from llmc.serve.refusals import BROKEN, BUSY, Refused

Event = Token | End
MOST_SECONDS_TO_WAIT = 60
RESTART_SECONDS = 5  # Retry-After, while the engine starts again


class EngineBatch:
    """The engine of a server, started. Belongs to one event loop, in which it is made.

    Attributes:
        capacity: completions that may be open at a time: in slots or waiting.
        open: completions that have not ended.
        running: open completions with a first token.
        draining: True while the server stops: no new completions.
        restarts: how often the engine was started again: at most once.
    """

    def __init__(self, generator: Generator, queue: int) -> None:
        """Use an engine, for whose slots ``queue`` completions may wait."""
        self.generator = generator
        self.restarts = 0
        self._starting: Generator | None = None
        self.capacity = generator.ready.slots + queue
        self.open = 0
        self.running = 0
        self.draining = False
        self._jobs: set[Job] = set()
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[Job, int, Event]] = deque()
        self._woken = False
        self._seconds = 1.0  # moving average of how long a completion is in its slot

    @property
    def failure(self) -> LlmcError | None:
        """Why the engine has ended; None while it runs."""
        return self.generator.failure

    @property
    def recovers(self) -> bool:
        """Whether an engine that has ended is, or will be, started again."""
        return not self.draining and (self.restarts == 0 or self._starting is not None)

    async def restart(self) -> None:
        """Start an engine in place of the one that has ended; requests are refused meanwhile.

        If it cannot be started, ``failure`` says why from then on.
        """
        self.restarts += 1
        self._starting = fresh = self.generator.again()
        with suppress(LlmcError):
            await asyncio.to_thread(fresh.__enter__)
        self.generator, self._starting = fresh, None

    def close(self) -> None:
        """End the engine that was started again, also while it starts."""
        for each in (self._starting, self.generator if self.restarts else None):
            if each is not None:
                each.close()

    def dead(self, why: LlmcError | None) -> Refused:
        """Return the refusal of a request that the engine did not answer, because it ended."""
        if self.recovers:
            return Refused(
                503,
                f"The engine has ended ({why}) and is started again: send the request "
                "again in some seconds",
                kind=BROKEN,
                code="engine_restarting",
                headers={"Retry-After": str(RESTART_SECONDS)},
            )
        message = f"The engine has ended: {why}"
        return Refused(503, message, kind=BROKEN, code="engine_dead")

    def submit(self, requests: Sequence[Request]) -> Job:
        """Submit the texts of one request.

        Raises:
            Refused: the queue is full, the engine has ended or refuses the prompt, or the server
                is stopping.
        """
        if self.failure is not None:
            raise self.dead(self.failure)
        if self.draining:
            raise Refused(503, "The server is shutting down", kind=BROKEN, code="shutting_down")
        if self.open + len(requests) > self.capacity:
            raise Refused(
                429,
                f"The server is busy: {self.open} of at most {self.capacity} completions are open",
                kind=BUSY,
                code="queue_full",
                headers={"Retry-After": str(self.seconds_to_wait())},
            )
        job = Job(self, len(requests))
        try:
            for index, request in enumerate(requests):
                deliver = partial(self._deliver, job, index)
                job.names.append(job.generator.submit(request, deliver))
                self.open += 1
        except LlmcError as error:
            job.cancel()  # the texts that were submitted
            if isinstance(error, Usage):
                raise Refused(400, str(error), param="prompt") from error
            raise self.dead(error) from error
        self._jobs.add(job)
        return job

    def seconds_to_wait(self) -> int:
        """Estimate when a slot will be free, in whole seconds."""
        rounds = max(1.0, self.open / self.generator.ready.slots)
        return max(1, min(MOST_SECONDS_TO_WAIT, ceil(self._seconds * rounds)))

    def cancel_all(self, why: str) -> None:
        """End all texts with an error."""
        for job in list(self._jobs):
            for index in sorted(job.missing):
                job.put(index, End("error", message=why))
            job.cancel()

    def _deliver(self, job: Job, index: int, event: Event) -> None:
        """Queue an event in the engine's thread; one call into the loop handles many."""
        self._inbox.append((job, index, event))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._sort)

    def _sort(self) -> None:
        """Hand the queued events to their jobs, and count."""
        self._woken = False
        while self._inbox:
            job, index, event = self._inbox.popleft()
            now = time.monotonic()
            if isinstance(event, Token):
                if index not in job.started:
                    job.started[index] = now
                    self.running += 1
            else:
                self.open -= 1
                job.ended.add(index)
                if len(job.ended) == len(job.names):
                    self._jobs.discard(job)
                if index in job.started:
                    self.running -= 1
                    self._seconds += 0.1 * (now - job.started[index] - self._seconds)
            if isinstance(event, End) and event.failure is not None:
                event = replace(event, message=self.dead(event.failure).detail)
            job.put(index, event)


class Job:
    """The texts of one request.

    Attributes:
        generator: the engine that writes them.
        names: their names in that engine.
        began: when they were submitted (monotonic clock).
        started: when the first token of each came (monotonic clock), by index.
        ended: texts that the engine has ended.
        missing: texts whose end has not been put.
    """

    def __init__(self, batch: EngineBatch, count: int) -> None:
        self.names: list[str] = []
        self.began = time.monotonic()
        self.started: dict[int, float] = {}
        self.ended: set[int] = set()
        self.missing = set(range(count))
        self.generator = batch.generator
        self._events: list[tuple[int, Event]] = []
        self._came = asyncio.Event()
        self._all = asyncio.Event()

    def put(self, index: int, event: Event) -> None:
        """Add an event for :meth:`next`; events after the end of a text are dropped."""
        if index in self.missing:
            if isinstance(event, End):
                self.missing.discard(index)
                if not self.missing:
                    self._all.set()
            self._events.append((index, event))
            self._came.set()

    async def next(self) -> list[tuple[int, Event]]:
        """Wait for events and return all that have come."""
        await self._came.wait()
        self._came.clear()
        events, self._events = self._events, []
        return events

    async def rest(self, seconds: float) -> None:
        """Wait until all texts have ended, at most ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all.wait()

    def finish(self, index: int) -> None:
        """Cancel one text, after a stop string."""
        if index in self.missing:
            self.missing.discard(index)
            self.generator.cancel(self.names[index])

    def cancel(self) -> None:
        """Cancel all texts that have not ended."""
        self.missing.clear()
        for index, name in enumerate(self.names):
            if index not in self.ended:
                self.generator.cancel(name)
