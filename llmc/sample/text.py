"""One text being sampled: an iterator over its tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import NamedTuple

from llmc.engine.generator import Generator
from llmc.engine.protocol import NO_TOKEN, End, Request, Token
from llmc.errors import LlmcError
from llmc.sample.streaming import KEPT, TextPiece, TextStream
from llmc.tokens.tokenizer import Tokenizer


class SampledToken(NamedTuple):
    """A token of a text."""

    token: int  # its id
    # The characters that it completes, with bytes that are not UTF-8 as lone surrogates. Empty if
    # the tokenizer is unknown.
    text: str
    # Its probability in the model's distribution before any filter; 1 for a token of the prompt.
    probability: float = 1.0
    # False if a stop string cut it: then the text is part of the sample, the id is not.
    whole: bool = True


class Sample:
    """One text being sampled: an iterator over the tokens that certainly belong to it.

    Events are handled in the thread that reads the engine, so that a stop string ends the text at
    once even if nobody is iterating.

    Attributes:
        seed: the random seed.
        ids: ids of the tokens read so far, without the prompt and without a token that was cut.
        logprobs: natural logarithm of the probability of each.
        text: characters read so far, without the prompt.
        stopped: the stop string that ended the text (not part of it); None if none did.
        end: how the text ended; None until the end is read.
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer | None,
        request: Request,
        stops: Sequence[str] = (),
    ) -> None:
        """Submit the request; the engine starts writing now.

        Without a ``tokenizer`` there are ids only, and no ``stops``.

        Raises:
            Usage: a stop string is empty, or the prompt is too long.
            LlmcError: the engine has ended.
        """
        self.seed = request.settings.seed
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.text = ""
        self.stopped: str | None = None
        self.end: End | None = None
        self._eot = request.eot
        self._stream = TextStream(tokenizer, stops, errors=KEPT) if tokenizer else None
        self._tokens: list[Token] = []
        self._queue: SimpleQueue[tuple[TextPiece, Token] | End | LlmcError] = SimpleQueue()
        self._generator = generator
        self._identity = ""
        self._identity = generator.submit(request, self._receive)
        if self.stopped is not None:  # a stop string came before the identity was known here
            self.cancel()

    def __iter__(self) -> Iterator[SampledToken]:
        """Yield each token as soon as it is certain that no stop string begins in it.

        Raises:
            LlmcError: the engine failed or ended.
        """
        while True:
            item = self._queue.get()
            if isinstance(item, LlmcError):
                raise item
            if isinstance(item, End):
                item.raise_failure()
                self.end = item
                return
            piece, token = item
            if piece.whole:
                self.ids.append(token.token)
                self.logprobs.append(token.logprob)
            self.text += piece.text
            yield SampledToken(token.token, piece.text, math.exp(token.logprob), piece.whole)

    def cancel(self) -> None:
        """End the text early; tokens written until then still arrive. Safe in a signal handler."""
        self._generator.cancel(self._identity)

    def finished(self) -> Sample:
        """Read the text to its end.

        Raises:
            LlmcError: the engine failed or ended.
        """
        for _ in self:
            pass
        return self

    @property
    def reason(self) -> str:
        """Why the text ended: ``length``, ``end-of-text``, ``stop`` or ``cancelled``."""
        if self.stopped is not None:
            return "stop"
        assert self.end is not None
        return "end-of-text" if self.end.reason == "stop" else self.end.reason

    def _receive(self, event: Token | End) -> None:
        """Handle an event, in the thread that reads the engine."""
        try:
            self._handle(event)
        except LlmcError as error:
            self._queue.put(error)
            raise

    def _handle(self, event: Token | End) -> None:
        if isinstance(event, End):
            if self._stream is not None and event.reason != "error":
                self._add(self._stream.finish())
                self.stopped = self._stream.stopped
            self._queue.put(event)
        elif self.stopped is None and (event.token != self._eot or self._eot == NO_TOKEN):
            self._tokens.append(event)
            if self._stream is None:
                self._add([TextPiece(len(self._tokens) - 1, "")])
                return
            self._add(self._stream.feed(event.token))
            self.stopped = self._stream.stopped
            if self.stopped is not None and self._identity:
                self.cancel()

    def _add(self, pieces: Sequence[TextPiece]) -> None:
        for piece in pieces:
            self._queue.put((piece, self._tokens[piece.place]))
