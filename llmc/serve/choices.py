"""One choice of an answer: from the engine's events to OpenAI's fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llmc.engine.protocol import End, Token
from llmc.sample.streaming import TextPiece, TextStream
from llmc.serve.refusals import BROKEN, Refused
from llmc.tokens.tokenizer import Tokenizer

Speller = Callable[[int], str]


@dataclass
class ChoiceWriter:
    """A choice while it is written."""

    index: int  # its place in the answer
    stream: TextStream  # turns its tokens into text, and ends it at a stop string
    spell: Speller  # :func:`speller` of the tokenizer
    eot: int  # the token that ends the text and is not part of it
    alternatives: int | None  # the number per token; None: no log probabilities
    text: str  # what was not flushed yet; the prompt, where the text begins with it
    reason: str | None = None  # ``length`` or ``stop`` once the text has ended, None before
    tokens: int = 0  # tokens written so far
    _waiting: dict[int, Token] = field(default_factory=dict)  # by position; not in the text yet
    _done: list[tuple[Token, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._offset = len(self.text)

    def take(self, event: Token | End) -> None:
        """Handle an event of a text that has not ended.

        Raises:
            Refused: the engine failed.
        """
        if isinstance(event, Token):
            if event.token != self.eot:
                self._waiting[self.tokens] = event
                self.tokens += 1
                self._add(self.stream.feed(event.token))
        elif event.reason in ("length", "stop"):
            self._add(self.stream.finish())
            self.reason = event.reason
        else:
            why = event.message or "the text was cancelled"
            raise Refused(503, why, kind=BROKEN, code="engine_failed")
        if self.stream.stopped is not None:
            self.reason = "stop"

    def flush(self) -> dict[str, Any]:
        """Return the choice with what came since the last call, as OpenAI's clients expect it."""
        text, self.text = self.text, ""
        done, self._done = self._done, []
        return {
            "index": self.index,
            "text": text,
            "logprobs": self._logprobs(done) if self.alternatives is not None else None,
            "finish_reason": self.reason,
        }

    @property
    def has_news(self) -> bool:
        """Whether :meth:`flush` would return anything."""
        return bool(self.text or self._done or self.reason)

    def _add(self, pieces: list[TextPiece]) -> None:
        for piece in pieces:
            # A token with an incomplete last character comes as two pieces.
            if (token := self._waiting.pop(piece.place, None)) is not None:
                self._done.append((token, self._offset))
            self.text += piece.text
            self._offset += len(piece.text)

    def _logprobs(self, done: list[tuple[Token, int]]) -> dict[str, Any]:
        return {
            "tokens": [self.spell(token.token) for token, _ in done],
            "token_logprobs": [token.logprob for token, _ in done],
            "top_logprobs": [self._top(token) for token, _ in done] if self.alternatives else None,
            "text_offset": [offset for _, offset in done],
        }

    def _top(self, token: Token) -> dict[str, float]:
        """Return the alternatives, most likely first, and the token itself if it is not one."""
        top = {self.spell(other): logprob for other, logprob in token.top}
        return top | {self.spell(token.token): token.logprob}


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
