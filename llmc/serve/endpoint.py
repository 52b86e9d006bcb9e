"""What the endpoints that write texts share: checks, the engine's requests, the answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import JSONResponse, Response

from llmc.config import SampleConfig
from llmc.engine.protocol import Request
from llmc.serve.answers import Answer, AnswerStream
from llmc.serve.batch import EngineBatch
from llmc.serve.choices import ChoiceWriter, Speller
from llmc.serve.metrics import ServerMetrics
from llmc.serve.refusals import Refused, printable
from llmc.serve.schema import RequestLimits, TextRequest
from llmc.serve.served import ServedModel
from llmc.text.utf8 import as_read

LONG_TEXT = 4096  # characters; longer prompts are tokenized in a thread
SEEDS = 1 << 53  # seeds that the engine distinguishes


class Endpoint:
    """Turns requests for texts of one model into answers.

    Attributes:
        model: the model's name.
        most: the most tokens of a prompt.
    """

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
        self.most = limits.positions - 1
        self.tokenizer = served.tokenizer
        self.spell = Speller(served.tokenizer)
        self._unix = served.unix
        self._metrics = metrics
        # Special tokens count where they are asked for.
        names = map(len, served.tokenizer.special_tokens)
        self._longest = max(*served.tokenizer.text_sizes().values(), 0, *names)

    @property
    def most_characters(self) -> int:
        """The most characters of a prompt: a token has at least as many bytes as characters."""
        return self.most * self._longest

    def read(self, text: str) -> str:
        """Return a text of a request as texts are read."""
        return as_read(text, unix=self._unix)

    def check(self, asked: TextRequest, prompts: int = 1) -> None:
        """Check what depends on several parameters, or on the vocabulary.

        Raises:
            Refused: the model is another one, there would be too many completions, or a biased
                token does not exist.
        """
        if asked.model != self.model:
            raise self.unknown(asked.model)
        count = prompts * asked.candidates
        if count > self.limits.choices:
            name = "n" if asked.candidates == asked.n else "best_of"
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

    def requests(
        self,
        asked: TextRequest,
        prompts: Sequence[list[int]],
        *,
        tokens: int,
        eot: int,
        logprobs: int | None,
        echo: bool = False,
    ) -> list[Request]:
        """Return the engine's requests, each with a seed of its own."""
        settings = SampleConfig(
            tokens=tokens,
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
                logprobs or 0,
                asked.frequency_penalty,
                asked.presence_penalty,
                asked.bias,
                echo,
            )
            for index in range(len(prompts) * asked.candidates)
        ]

    async def respond(
        self,
        asked: TextRequest,
        kind: tuple[str, str],
        choices: list[ChoiceWriter],
        requests: list[Request],
        more: Mapping[str, Any] | None = None,
    ) -> Response:
        """Submit the requests and answer with their choices; a stream begins with the first event.

        ``kind`` is the prefix of the answer's id, and what OpenAI calls it. ``more`` are further
        fields of the answer.

        Raises:
            Refused: the engine does not take or answer the requests.
        """
        job = self.batch.submit(requests)
        head: dict[str, Any] = {
            "id": f"{kind[0]}-{secrets.token_hex(12)}",
            "object": kind[1],
            "created": int(time.time()),
            "model": self.model,
            **(more or {}),
        }
        answer = Answer(
            head,
            choices,
            asked.n,
            asked.candidates,
            job,
            sum(len(each.prompt) for each in requests[:: asked.candidates]),
            bool(asked.stream_options.include_usage),
            self._metrics,
        )
        if asked.stream:
            return AnswerStream(answer)
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

    def too_long(self, count: str, param: str) -> Refused:
        """Return the refusal of a prompt of so many tokens, in the parameter ``param``."""
        return Refused(
            400,
            f"This model's context is {self.most + 1} tokens and one of them is the answer's: a "
            f"prompt may have {self.most}, and this one has {count}",
            code="context_length_exceeded",
            param=param,
        )
