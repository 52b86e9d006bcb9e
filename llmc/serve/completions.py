"""Answers to requests for completions, whole or as a stream."""

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
from llmc.serve.batch import EngineBatch, Job
from llmc.serve.choices import ChoiceWriter, speller
from llmc.serve.metrics import ServerMetrics
from llmc.serve.refusals import Refused, printable, too_long
from llmc.serve.schema import CompletionRequest, RequestLimits
from llmc.tokens.tokenizer import Tokenizer

# The least time between two events of a stream. More events than a screen shows would cost as much
# as several tokens each.
EVENT_SECONDS = 1 / 60
LONG_TEXT = 4096  # characters; longer prompts are tokenized in a thread
SEEDS = 1 << 53  # seeds that the engine distinguishes


class Completions:
    """Turns requests into answers."""

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        limits: RequestLimits,
        batch: EngineBatch,
        metrics: ServerMetrics,
    ) -> None:
        """Answer with one model.

        Args:
            model: its name.
            tokenizer: its tokenizer.
            limits: what one request may ask for.
            batch: the engine.
            metrics: the counters.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.limits = limits
        self.batch = batch
        self.metrics = metrics
        self._spell = speller(tokenizer)
        self._longest = max(map(len, tokenizer.ranks))

    async def answer(self, asked: CompletionRequest) -> Response:
        """Answer a request; a stream begins with the first event.

        Raises:
            Refused: it cannot be answered.
        """
        if asked.model != self.model:
            raise unknown_model(asked.model, self.model)
        count = len(asked.prompts) * asked.n
        if count > self.limits.choices:
            raise Refused(
                400,
                f"{len(asked.prompts)} prompts × n = {asked.n} are {count} completions, and one "
                f"request to this server may ask for {self.limits.choices}",
                param="n",
            )
        prompts = [
            await self._ids(prompt, asked.truncate_prompt_tokens) for prompt in asked.prompts
        ]
        seed = asked.seed if asked.seed is not None else secrets.randbelow(SEEDS)
        requests = [
            self._request(asked, ids, seed + index)
            for index, ids in enumerate(ids for ids in prompts for _ in range(asked.n))
        ]
        answer = Answer(self, asked, self.batch.submit(requests), sum(map(len, prompts)))
        if asked.stream:
            return _Stream(answer)
        try:
            return JSONResponse(await answer.whole())
        finally:
            answer.leave()

    def choices(self, asked: CompletionRequest) -> list[ChoiceWriter]:
        """Return a writer for each text, in the order of their indices."""
        return [
            ChoiceWriter(
                self.tokenizer,
                asked.stops,
                spell=self._spell,
                eot=self._eot(asked),
                logprobs=asked.logprobs,
                echo=self._text(prompt) if asked.echo else "",
            )
            for prompt in asked.prompts
            for _ in range(asked.n)
        ]

    def _eot(self, asked: CompletionRequest) -> int:
        return NO_TOKEN if asked.ignore_eos else self.tokenizer.eot

    def _request(self, asked: CompletionRequest, ids: list[int], seed: int) -> Request:
        settings = SampleConfig(
            tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            seed=seed % SEEDS,
        )
        return Request(ids, settings, eot=self._eot(asked), logprobs=asked.logprobs or 0)

    async def _ids(self, prompt: str | list[int], truncate: int | None) -> list[int]:
        """Return a prompt's ids; end-of-text for an empty one.

        Raises:
            Refused: it is longer than the context.
        """
        most = self.limits.positions - 1
        if isinstance(prompt, list):
            if len(prompt) > most:
                raise too_long(str(len(prompt)), most)
            return prompt[-truncate:] if truncate is not None else prompt
        characters = most * self._longest  # a token has at least as many bytes as characters
        if truncate is not None:
            prompt = prompt[-characters:]
        if len(prompt) > characters:
            raise too_long(f"{len(prompt)} characters, more than {most} tokens have", most)
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


def unknown_model(name: str, served: str) -> Refused:
    """Return the refusal of a request for another model."""
    return Refused(
        404,
        f"The model '{printable(name)}' does not exist: this server has '{served}'",
        code="model_not_found",
        param="model",
    )


class Answer:
    """The answer to one request while it is written."""

    def __init__(
        self, completions: Completions, asked: CompletionRequest, job: Job, prompt_tokens: int
    ) -> None:
        """Answer ``asked`` from the events of ``job``."""
        self._metrics = completions.metrics
        self._asked = asked
        self._job = job
        self._choices = completions.choices(asked)
        self._prompt_tokens = prompt_tokens
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": completions.model,
        }
        self._left = False

    async def whole(self) -> dict[str, Any]:
        """Return the answer once all texts have ended.

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
        """Yield the answer as server-sent events, each with the text since the last one."""
        with_usage = bool(self._asked.stream_options.include_usage)
        more = {"usage": None} if with_usage else {}
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
        if with_usage:
            yield _event({**self._head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def leave(self) -> None:
        """Cancel what is still being written, and count the tokens."""
        if not self._left:
            self._left = True
            self._job.cancel()
            self._metrics.completed(
                self._prompt_tokens, sum(choice.tokens for choice in self._choices)
            )

    async def _changes(self) -> AsyncIterator[list[int]]:
        """Handle events until all texts have ended; yield the indices of those that changed."""
        open_choices = set(range(len(self._choices)))
        first = True
        while open_choices:
            changed = []
            for index, event in await self._job.next():
                if first:
                    first = False
                    self._metrics.began(time.monotonic() - self._job.began)
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
    """Server-sent events; a client that disconnects frees its slots."""

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
