"""One text of an answer: tokens in, text and log probabilities out, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from llmc.engine.protocol import End, Token
from llmc.sample.streaming import Piece, TextStream
from llmc.serve.refusals import BROKEN, Refused
from llmc.tokens.tokenizer import Tokenizer

Spell = Callable[[int], str]


class Choice:
    """A text while it is written.

    Attributes:
        reason: why it has ended, ``length`` or ``stop``; None while it has not.
        tokens: how many were written.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        spell: Spell,
        eot: int,
        logprobs: int | None,
        echo: str = "",
    ) -> None:
        """Begin a text.

        Args:
            tokenizer: what the ids mean.
            stops: strings before which it ends.
            spell: :func:`speller` of the tokenizer.
            eot: the token that ends it, and is not part of it.
            logprobs: alternatives to tell per token; None: no log probabilities at all.
            echo: what it begins with.
        """
        self.reason: str | None = None
        self.tokens = 0
        self._stream = TextStream(tokenizer, stops)
        self._spell = spell
        self._eot = eot
        self._alternatives = logprobs
        self._waiting: dict[int, Token] = {}  # by place; not part of the text yet
        self._text = echo
        self._offset = len(echo)
        self._told: list[tuple[Token, int]] = []

    def take(self, event: Token | End) -> None:
        """Take in an event.

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
        """Return the text since the last time, and the log probabilities of its tokens."""
        text, self._text = self._text, ""
        told, self._told = self._told, []
        return text, self._logprobs(told) if self._alternatives is not None else None

    @property
    def has_news(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._text or self._told)

    def _add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            # A character that came to nothing comes as a second piece of the same token.
            if (token := self._waiting.pop(piece.place, None)) is not None:
                self._told.append((token, self._offset))
            self._text += piece.text
            self._offset += len(piece.text)

    def _logprobs(self, told: list[tuple[Token, int]]) -> dict[str, Any]:
        wanted = self._alternatives
        return {
            "tokens": [self._spell(token.token) for token, _ in told],
            "token_logprobs": [token.logprob for token, _ in told],
            "top_logprobs": [self._top(token) for token, _ in told] if wanted else None,
            "text_offset": [offset for _, offset in told],
        }

    def _top(self, token: Token) -> dict[str, float]:
        """Return the alternatives, the likeliest first, and the token itself where it is none."""
        told = {self._spell(other): logprob for other, logprob in token.top}
        return told | {self._spell(token.token): token.logprob}


def speller(tokenizer: Tokenizer) -> Spell:
    """Return what spells single tokens: those that are no text by their bytes, as OpenAI does."""

    @lru_cache(maxsize=1 << 16)
    def spell(token: int) -> str:
        data = tokenizer.detokenize([token])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    return spell
