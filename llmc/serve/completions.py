"""The endpoint that continues prompts: OpenAI's completions."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from starlette.responses import Response

from llmc.engine.protocol import NO_TOKEN, PromptToken
from llmc.errors import BadData
from llmc.sample.streaming import TextStream
from llmc.serve.choices import ChoiceWriter
from llmc.serve.endpoint import LONG_TEXT, Endpoint
from llmc.serve.refusals import Refused
from llmc.serve.schema import CompletionRequest


class Completions(Endpoint):
    """Turns requests for completions into answers."""

    async def answer(self, asked: CompletionRequest) -> Response:
        """Answer a request.

        Raises:
            Refused: it cannot be answered.
        """
        self.check(asked, len(asked.prompts))
        prompts = [await self._ids(each, asked) for each in asked.prompts]
        eot = NO_TOKEN if asked.ignore_eos or not self.tokenizer.ends else self.tokenizer.eot
        choices = [
            self._choice(asked, index, prompts[index // asked.candidates], eot)
            for index in range(len(prompts) * asked.candidates)
        ]
        requests = self.requests(
            asked,
            prompts,
            tokens=asked.max_tokens,
            eot=eot,
            logprobs=asked.logprobs,
            echo=asked.echo and asked.logprobs is not None,
        )
        return await self.respond(asked, ("cmpl", "text_completion"), choices, requests)

    def _choice(
        self, asked: CompletionRequest, index: int, ids: list[int], eot: int
    ) -> ChoiceWriter:
        """Return the writer of one text; with ``echo`` it begins with the prompt, of ``ids``."""
        given = asked.prompts[index // asked.candidates]
        tells = asked.echo and asked.logprobs is not None and bool(given)
        choice = ChoiceWriter(
            index,
            TextStream(self.tokenizer, asked.stops),
            self.spell,
            frozenset({eot}),
            asked.logprobs,
            self._text(given) if asked.echo and not tells else "",
            TextStream(self.tokenizer) if tells else None,
        )
        if tells:
            choice.take(PromptToken(ids[0], math.nan))
        return choice

    async def _ids(self, prompt: str | list[int], asked: CompletionRequest) -> list[int]:
        """Return a prompt's ids; end-of-text for an empty one."""
        truncate = asked.truncate_prompt_tokens
        if isinstance(prompt, list):
            if len(prompt) > self.most:
                raise self.too_long(str(len(prompt)), "prompt")
            return prompt[-truncate:] if truncate is not None else prompt
        characters = self.most_characters
        if truncate is not None:
            prompt = prompt[-characters:]
        if len(prompt) > characters:
            count = f"{len(prompt)} characters, more than {self.most} tokens have"
            raise self.too_long(count, "prompt")
        try:
            encode = partial(self.tokenizer.encode, self.read(prompt), special=asked.special)
            ids = await asyncio.to_thread(encode) if len(prompt) > LONG_TEXT else encode()
        except BadData as error:  # a character that the vocabulary lacks
            raise Refused(400, str(error), param="prompt") from error
        if truncate is not None:
            ids = ids[-truncate:]
        if len(ids) > self.most:
            raise self.too_long(str(len(ids)), "prompt")
        return ids or [self.tokenizer.eot]

    def _text(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return self.read(prompt)
        return self.tokenizer.detokenize(prompt).decode(errors="replace")
