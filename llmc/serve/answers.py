"""The answer to one request while it is written: whole, or as server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llmc.serve.batch import Job
from llmc.serve.choices import ChoiceWriter
from llmc.serve.metrics import ServerMetrics
from llmc.serve.refusals import Refused

# The least time between two events of a stream. More events than a screen shows would cost as much
# as several tokens each.
EVENT_SECONDS = 1 / 60


@dataclass
class Answer:
    """The answer to one request while its job is written."""

    head: dict[str, Any]  # the fields that every part of it begins with
    choices: list[ChoiceWriter]  # ``candidates`` for each prompt, of which it has the best ``n``
    n: int
    candidates: int
    job: Job
    prompt_tokens: int
    with_usage: bool  # a stream ends with the usage
    metrics: ServerMetrics
    left: bool = False

    async def whole(self) -> dict[str, Any]:
        """Return the answer once all texts have ended.

        Raises:
            Refused: the engine failed.
        """
        async for _ in self._changes():
            pass
        choices = [choice.whole() for choice in self._best()]
        return {**self.head, "choices": choices, "usage": self._usage()}

    def _best(self) -> list[ChoiceWriter]:
        """Return the choices of the answer, numbered."""
        if self.n == self.candidates:
            return self.choices
        best = []
        for first in range(0, len(self.choices), self.candidates):
            group = self.choices[first : first + self.candidates]
            best += sorted(group, key=lambda choice: -choice.mean_logprob)[: self.n]
        for index, choice in enumerate(best):
            choice.index = index
        return best

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events, each with the text since the last one."""
        more = {"usage": None} if self.with_usage else {}
        try:
            async for changed in self._changes():
                for choice in changed:
                    if choice.has_news:
                        yield _event({**self.head, "choices": [choice.flush()], **more})
                await self.job.rest(EVENT_SECONDS)
        except Refused as error:
            yield _event(error.body)
            return
        if self.with_usage:
            yield _event({**self.head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def leave(self) -> None:
        """Cancel what is still being written, and count the tokens."""
        if not self.left:
            self.left = True
            self.job.cancel()
            self.metrics.completed(self.prompt_tokens, self._cached, self._written)

    async def _changes(self) -> AsyncIterator[list[ChoiceWriter]]:
        """Handle events until all texts have ended; yield the choices that changed."""
        first = True
        while any(choice.reason is None for choice in self.choices):
            events = await self.job.next()
            if first:
                first = False
                self.metrics.began(time.monotonic() - self.job.began)
            changed = {}
            for index, event in events:
                choice = self.choices[index]
                if choice.reason is None:
                    choice.take(event)
                    changed[index] = choice
                    if choice.reason is not None:
                        self.job.finish(index)
            yield list(changed.values())

    @property
    def _cached(self) -> int:
        return sum(choice.cached for choice in self.choices[:: self.candidates])

    @property
    def _written(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self._written,
            "total_tokens": self.prompt_tokens + self._written,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


class AnswerStream(StreamingResponse):
    """Server-sent events; a client that disconnects frees its slots."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(
            answer.pieces(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.leave()


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"
