"""Answers to requests for completions, at once or as they are made."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llmc.config import SampleConfig
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.serve.batch import Batch, Job
from llmc.serve.choices import Choice, speller
from llmc.serve.metrics import Metrics
from llmc.serve.parameters import SEEDS, Limits, too_long
from llmc.serve.refusals import Refused
from llmc.serve.request import Completion
from llmc.tokens.tokenizer import Tokenizer

# Between two events of a stream: what nobody sees; each costs as much as several tokens.
EVENT_SECONDS = 1 / 60
LONG_TEXT = 4096  # characters; what takes longer to encode does not hold up the others


class Completions:
    """What writes: the model's name, its tokenizer, and the engine."""

    def __init__(
        self, model: str, tokenizer: Tokenizer, limits: Limits, batch: Batch, metrics: Metrics
    ) -> None:
        """Answer by these."""
        self.model = model
        self.tokenizer = tokenizer
        self.limits = limits
        self.batch = batch
        self.metrics = metrics
        self._spell = speller(tokenizer)
        self._longest = max(map(len, tokenizer.ranks))

    async def answer(self, asked: Completion) -> Response:
        """Answer a request, or begin to.

        Raises:
            Refused: it cannot be answered.
        """
        prompts = [await self._ids(prompt, asked.truncate) for prompt in asked.prompts]
        requests = [
            self._request(asked, ids, index)
            for index, ids in enumerate(ids for ids in prompts for _ in range(asked.n))
        ]
        answer = Answer(self, asked, self.batch.submit(requests), sum(map(len, prompts)))
        if asked.stream:
            return _Stream(answer)
        try:
            return JSONResponse(await answer.whole())
        finally:
            answer.leave()

    def choices(self, asked: Completion) -> list[Choice]:
        """Return the texts to be written, in the order of their indices."""
        return [
            Choice(
                self.tokenizer,
                asked.stops,
                spell=self._spell,
                eot=NO_TOKEN if asked.ignore_eos else self.tokenizer.eot,
                logprobs=asked.logprobs,
                echo=self._text(prompt) if asked.echo else "",
            )
            for prompt in asked.prompts
            for _ in range(asked.n)
        ]

    def _request(self, asked: Completion, ids: list[int], index: int) -> Request:
        settings = SampleConfig(
            tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            seed=(asked.seed + index) % SEEDS,
        )
        eot = NO_TOKEN if asked.ignore_eos else self.tokenizer.eot
        return Request(ids, settings, eot=eot, logprobs=asked.logprobs or 0)

    async def _ids(self, prompt: str | list[int], truncate: int | None) -> list[int]:
        """Return a prompt's ids; of an empty one, the end of the document before it.

        Raises:
            Refused: it is longer than the context.
        """
        if isinstance(prompt, list):
            return prompt[-truncate:] if truncate is not None else prompt
        most = self.limits.positions - 1
        characters = most * self._longest  # no token has more characters than bytes
        if truncate is not None:
            prompt = prompt[-characters:]
        if len(prompt) > characters:
            raise too_long(f"{len(prompt)} characters, which no {most} tokens can spell", most)
        if len(prompt) > LONG_TEXT:
            ids = await asyncio.to_thread(self.tokenizer.encode, prompt)
        else:
            ids = self.tokenizer.encode(prompt)
        if truncate is not None:
            ids = ids[-truncate:]
        if len(ids) > most:
            raise too_long(str(len(ids)), most)
        return ids or [self.tokenizer.eot]

    def _text(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        return self.tokenizer.detokenize(prompt).decode(errors="replace")


class Answer:
    """The answer to one request while it is made."""

    def __init__(self, room: Completions, asked: Completion, job: Job, prompt_tokens: int) -> None:
        """Answer ``asked`` from the events of ``job``."""
        self._room = room
        self._asked = asked
        self._job = job
        self._choices = room.choices(asked)
        self._prompt_tokens = prompt_tokens
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": room.model,
        }
        self._left = False

    async def whole(self) -> dict[str, Any]:
        """Return the answer once all of it is there.

        Raises:
            Refused: the engine failed.
        """
        async for _ in self._changes():
            pass
        parts = [
            self._choice(index, *choice.flush(), choice.reason)
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head, "choices": parts, "usage": self._usage()}

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events, each with what has come since the last."""
        more = {"usage": None} if self._asked.usage else {}
        try:
            async for changed in self._changes():
                for index in changed:
                    choice = self._choices[index]
                    if choice.has_news or choice.reason is not None:
                        part = self._choice(index, *choice.flush(), choice.reason)
                        yield _event({**self._head, "choices": [part], **more})
                await self._job.rest(EVENT_SECONDS)
        except Refused as error:
            yield _event(error.body)
            return
        if self._asked.usage:
            yield _event({**self._head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def leave(self) -> None:
        """Let go of what is not needed any more: nobody listens, or all is told."""
        if not self._left:
            self._left = True
            self._job.cancel()
            self._room.metrics.completed(
                self._prompt_tokens, sum(choice.tokens for choice in self._choices)
            )

    async def _changes(self) -> AsyncIterator[list[int]]:
        """Take in events until all texts have ended; yield the indices of those that changed."""
        open_choices = set(range(len(self._choices)))
        first = True
        while open_choices:
            changed = []
            for index, event in await self._job.next():
                if first:
                    first = False
                    self._room.metrics.began(time.monotonic() - self._job.began)
                if index not in open_choices:
                    continue
                self._choices[index].take(event)
                if index not in changed:
                    changed.append(index)
                if self._choices[index].reason is not None:
                    open_choices.discard(index)
                    self._job.finish(index)
            yield changed

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _usage(self) -> dict[str, int]:
        written = sum(choice.tokens for choice in self._choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
        }


class _Stream(StreamingResponse):
    """Server-sent events; whoever leaves frees the slots."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(
            answer.pieces(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.leave()


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"
