"""Answers to requests for completions, whole or as a stream."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llmc.config import SampleConfig
from llmc.engine.protocol import NO_TOKEN, PromptToken, Request
from llmc.errors import BadData
from llmc.sample.streaming import TextStream
from llmc.serve.batch import EngineBatch, Job
from llmc.serve.choices import ChoiceWriter, speller
from llmc.serve.metrics import ServerMetrics
from llmc.serve.refusals import Refused, printable
from llmc.serve.schema import CompletionRequest, RequestLimits
from llmc.serve.served import ServedModel
from llmc.text.utf8 import as_read

# The least time between two events of a stream. More events than a screen shows would cost as much
# as several tokens each.
EVENT_SECONDS = 1 / 60
LONG_TEXT = 4096  # characters; longer prompts are tokenized in a thread
SEEDS = 1 << 53  # seeds that the engine distinguishes


class Completions:
    """Turns requests for completions of one model into answers."""

    def __init__(
        self,
        served: ServedModel,
        limits: RequestLimits,
        batch: EngineBatch,
        metrics: ServerMetrics,
    ) -> None:
        self.model = served.name
        self.limits = limits
        self.batch = batch
        self._tokenizer = served.tokenizer
        self._unix = served.unix
        self._metrics = metrics
        self._spell = speller(served.tokenizer)
        # Special tokens count where they are asked for.
        names = map(len, served.tokenizer.special_tokens)
        self._longest = max(*served.tokenizer.text_sizes().values(), 0, *names)

    async def answer(self, asked: CompletionRequest) -> Response:
        """Answer a request; a stream begins with the first event.

        Raises:
            Refused: it cannot be answered.
        """
        if asked.model != self.model:
            raise self.unknown(asked.model)
        self._check(asked)
        prompts = [await self._ids(each, asked) for each in asked.prompts]
        tokenizer = self._tokenizer
        eot = NO_TOKEN if asked.ignore_eos or not tokenizer.ends else tokenizer.eot
        choices = [
            self._choice(asked, index, prompts[index // asked.candidates], eot)
            for index in range(len(prompts) * asked.candidates)
        ]
        job = self.batch.submit(self._requests(asked, prompts, eot))
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.model,
        }
        with_usage = bool(asked.stream_options.include_usage)
        answer = Answer(
            head,
            choices,
            asked.n,
            asked.candidates,
            job,
            sum(map(len, prompts)),
            with_usage,
            self._metrics,
        )
        if asked.stream:
            return _Stream(answer)
        try:
            return JSONResponse(await answer.whole())
        finally:
            answer.leave()

    def unknown(self, name: str) -> Refused:
        """Return the refusal of a request for another model."""
        return Refused(
            404,
            f"The model '{printable(name)}' does not exist: this server has '{self.model}'",
            code="model_not_found",
            param="model",
        )

    def _check(self, asked: CompletionRequest) -> None:
        """Check what depends on several parameters, or on the vocabulary.

        Raises:
            Refused: there would be too many completions, or a biased token does not exist.
        """
        prompts, count = len(asked.prompts), len(asked.prompts) * asked.candidates
        if count > self.limits.choices:
            name = "n" if asked.best_of is None else "best_of"
            raise Refused(
                400,
                f"{prompts} prompts × {name} = {asked.candidates} are {count} completions, and one "
                f"request to this server may ask for {self.limits.choices}",
                param=name,
            )
        if (token := max(asked.bias, default=0)) >= self.limits.vocab_size:
            raise Refused(
                400,
                f"'logit_bias' names the token {token}, and this model's tokens are below "
                f"{self.limits.vocab_size}",
                param="logit_bias",
            )

    def _choice(
        self, asked: CompletionRequest, index: int, ids: list[int], eot: int
    ) -> ChoiceWriter:
        """Return the writer of one text; with ``echo`` it begins with the prompt, of ``ids``."""
        given = asked.prompts[index // asked.candidates]
        tells = asked.echo and asked.logprobs is not None and bool(given)
        choice = ChoiceWriter(
            index,
            TextStream(self._tokenizer, asked.stops),
            self._spell,
            frozenset({eot}),
            asked.logprobs,
            self._text(given) if asked.echo and not tells else "",
            TextStream(self._tokenizer) if tells else None,
        )
        if tells:
            choice.take(PromptToken(ids[0], math.nan))
        return choice

    def _requests(
        self, asked: CompletionRequest, prompts: list[list[int]], eot: int
    ) -> list[Request]:
        """Return the engine's requests, each with a seed of its own."""
        settings = SampleConfig(
            tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
        )
        seed = asked.seed if asked.seed is not None else secrets.randbelow(SEEDS)
        return [
            Request(
                prompts[index // asked.candidates],
                replace(settings, seed=(seed + index) % SEEDS),
                eot,
                asked.logprobs or 0,
                asked.frequency_penalty,
                asked.presence_penalty,
                asked.bias,
                asked.echo and asked.logprobs is not None,
            )
            for index in range(len(prompts) * asked.candidates)
        ]

    async def _ids(self, prompt: str | list[int], asked: CompletionRequest) -> list[int]:
        """Return a prompt's ids; end-of-text for an empty one."""
        most, truncate = self.limits.positions - 1, asked.truncate_prompt_tokens
        if isinstance(prompt, list):
            if len(prompt) > most:
                raise _too_long(str(len(prompt)), most)
            return prompt[-truncate:] if truncate is not None else prompt
        characters = most * self._longest  # a token has at least as many bytes as characters
        if truncate is not None:
            prompt = prompt[-characters:]
        if len(prompt) > characters:
            raise _too_long(f"{len(prompt)} characters, more than {most} tokens have", most)
        try:
            encode = partial(self._tokenizer.encode, self._read(prompt), special=asked.special)
            ids = await asyncio.to_thread(encode) if len(prompt) > LONG_TEXT else encode()
        except BadData as error:  # a character that the vocabulary lacks
            raise Refused(400, str(error), param="prompt") from error
        if truncate is not None:
            ids = ids[-truncate:]
        if len(ids) > most:
            raise _too_long(str(len(ids)), most)
        return ids or [self._tokenizer.eot]

    def _read(self, prompt: str) -> str:
        return as_read(prompt, unix=self._unix)

    def _text(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return self._read(prompt)
        return self._tokenizer.detokenize(prompt).decode(errors="replace")


def _too_long(count: str, most: int) -> Refused:
    """Return the refusal of a prompt of ``count``, where ``most`` tokens fit the context."""
    return Refused(
        400,
        f"This model's context is {most + 1} tokens and one of them is the answer's: a prompt may "
        f"have {most}, and this one has {count}",
        code="context_length_exceeded",
        param="prompt",
    )


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
        choices = [choice.flush() for choice in self._best()]
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
