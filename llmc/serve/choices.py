"""One choice of an answer: from the engine's events to OpenAI's fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from llmc.engine.protocol import End, Token
from llmc.sample.streaming import TextPiece, TextStream
from llmc.serve.refusals import BROKEN, Refused
from llmc.tokens.tokenizer import Tokenizer

Speller = Callable[[int], str]


class ChoiceWriter:
    """A choice while it is written.

    Attributes:
        reason: ``length`` or ``stop`` once the text has ended, None before.
        tokens: tokens written so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        spell: Speller,
        eot: int,
        logprobs: int | None,
        echo: str = "",
    ) -> None:
        """Begin a text.

        Args:
            tokenizer: the tokenizer of the ids.
            stops: strings that end the text and are not part of it.
            spell: :func:`speller` of the tokenizer.
            eot: the token that ends the text and is not part of it.
            logprobs: alternatives per token; None: no log probabilities.
            echo: the beginning of the text.
        """
        self.reason: str | None = None
        self.tokens = 0
        self._stream = TextStream(tokenizer, stops)
        self._spell = spell
        self._eot = eot
        self._alternatives = logprobs
        self._waiting: dict[int, Token] = {}  # by position; not part of the text yet
        self._text = echo
        self._offset = len(echo)
        self._done: list[tuple[Token, int]] = []

    def take(self, event: Token | End) -> None:
        """Handle an event.

        Raises:
            Refused: the engine failed.
        """
        if isinstance(event, Token):
            if event.token != self._eot and self.reason is None:
                self._waiting[self.tokens] = event
                self.tokens += 1
                self._add(self._stream.feed(event.token))
                if self._stream.stopped is not None:
                    self.reason = "stop"
            return
        if event.reason not in ("length", "stop"):
            why = event.message or "the text was cancelled"
            raise Refused(503, why, kind=BROKEN, code="engine_failed")
        if self.reason is None:
            self._add(self._stream.finish())
            self.reason = "stop" if self._stream.stopped is not None else event.reason

    def flush(self) -> tuple[str, dict[str, Any] | None]:
        """Return the text since the last call, and the log probabilities of its tokens."""
        text, self._text = self._text, ""
        done, self._done = self._done, []
        return text, self._logprobs(done) if self._alternatives is not None else None

    @property
    def has_news(self) -> bool:
        """Whether :meth:`flush` would return anything."""
        return bool(self._text or self._done)

    def _add(self, pieces: list[TextPiece]) -> None:
        for piece in pieces:
            # A token with an incomplete last character comes as two pieces.
            if (token := self._waiting.pop(piece.place, None)) is not None:
                self._done.append((token, self._offset))
            self._text += piece.text
            self._offset += len(piece.text)

    def _logprobs(self, done: list[tuple[Token, int]]) -> dict[str, Any]:
        return {
            "tokens": [self._spell(token.token) for token, _ in done],
            "token_logprobs": [token.logprob for token, _ in done],
            "top_logprobs": [self._top(token) for token, _ in done] if self._alternatives else None,
            "text_offset": [offset for _, offset in done],
        }

    def _top(self, token: Token) -> dict[str, float]:
        """Return the alternatives, most likely first, and the token itself if it is not one."""
        top = {self._spell(other): logprob for other, logprob in token.top}
        return top | {self._spell(token.token): token.logprob}


def speller(tokenizer: Tokenizer) -> Speller:
    """Return a function that spells a token, by its bytes if it is not UTF-8, as OpenAI does."""

    @lru_cache(maxsize=1 << 16)
    def spell(token: int) -> str:
        data = tokenizer.detokenize([token])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    return spell
