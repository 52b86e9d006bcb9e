"""One choice of an answer: from the engine's events to OpenAI's fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llmc.engine.protocol import End, PromptToken, Token
from llmc.sample.streaming import TextPiece, TextStream
from llmc.serve.refusals import BROKEN, Refused
from llmc.tokens.tokenizer import Tokenizer


class Speller:
    """Spells tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._spelled = lru_cache(maxsize=1 << 16)(self._spell)

    def __call__(self, token: int) -> str:
        """Return a token's text, by its bytes if it is not UTF-8, as OpenAI does."""
        return self._spelled(token)

    def bytes_of(self, token: int) -> list[int]:
        """Return a token's bytes."""
        return list(self._tokenizer.detokenize([token]))

    def _spell(self, token: int) -> str:
        data = self._tokenizer.detokenize([token])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


@dataclass
class ChoiceWriter:
    """A choice while it is written."""

    index: int  # its place in the answer
    stream: TextStream  # turns its tokens into text, and ends it at a stop string
    spell: Speller
    ends: frozenset[int]  # the tokens that end the text and are not part of it
    alternatives: int | None  # the number per token; None: no log probabilities
    text: str  # what was not flushed yet; the prompt, where the text begins with it
    # Turns the prompt's tokens into text, where they are reported like those that are written.
    prompt: TextStream | None = None
    reason: str | None = None  # ``length`` or ``stop`` once the text has ended, None before
    tokens: int = 0  # tokens written so far
    cached: int = 0  # tokens of its prompt that were in the prefix cache
    _waiting: dict[int, Token] = field(default_factory=dict)  # by position; not in the text yet
    _done: list[tuple[Token, int]] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)  # of what was written

    def __post_init__(self) -> None:
        self._offset = len(self.text)
        self._echoes = self.prompt is not None
        self._given = 0  # tokens of the prompt

    def take(self, event: Token | End) -> None:
        """Handle an event of a text that has not ended.

        Raises:
            Refused: the engine failed.
        """
        if isinstance(event, PromptToken):
            if self.prompt is not None:
                self._waiting[self._given] = event
                self._given += 1
                self._add(self.prompt.feed(event.token))
            return
        if self.prompt is not None:
            self._add(self.prompt.finish())
            self.prompt = None
        if isinstance(event, Token):
            self._take(event)
        elif event.reason in ("length", "stop"):
            self._end(event.reason)
        else:
            why = event.message or "the text was cancelled"
            raise Refused(503, why, kind=BROKEN, code="engine_failed")

    def _take(self, token: Token) -> None:
        self.cached = self.cached or token.cached
        self._logprobs.append(token.logprob)
        if token.token in self.ends:
            self._end("stop")
            if self._echoes:  # then clients expect every token that was written
                self._done.append((token, self._offset))
            return
        self._waiting[self.tokens] = token
        self.tokens += 1
        self._add(self.stream.feed(token.token))
        if self.stream.stopped is not None:
            self.reason = "stop"

    def _end(self, reason: str) -> None:
        self._add(self.stream.finish())
        self.reason = "stop" if self.stream.stopped is not None else reason

    @property
    def mean_logprob(self) -> float:
        """The mean log probability of what was written."""
        return math.fsum(self._logprobs) / len(self._logprobs) if self._logprobs else -math.inf

    def flush(self) -> dict[str, Any]:
        """Return the choice with what came since the last call, as OpenAI's clients expect it."""
        text, self.text = self.text, ""
        done, self._done = self._done, []
        return {
            "index": self.index,
            **self._content(text),
            "logprobs": self._table(done) if self.alternatives is not None else None,
            "finish_reason": self.reason,
        }

    def whole(self) -> dict[str, Any]:
        """Return the whole choice, of which nothing was flushed before."""
        return self.flush()

    def _content(self, text: str) -> dict[str, Any]:
        return {"text": text}

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

    def _table(self, done: list[tuple[Token, int]]) -> dict[str, Any]:
        return {
            "tokens": [self.spell(token.token) for token, _ in done],
            "token_logprobs": [_known(token.logprob) for token, _ in done],
            "top_logprobs": [self._top(token) for token, _ in done] if self.alternatives else None,
            "text_offset": [offset for _, offset in done],
        }

    def _top(self, token: Token) -> dict[str, float] | None:
        """Return the alternatives, most likely first, and the token itself if it is not one."""
        if _known(token.logprob) is None:
            return None
        top = {self.spell(other): logprob for other, logprob in token.top}
        return top | {self.spell(token.token): token.logprob}


def _known(logprob: float) -> float | None:
    """Return a log probability; None for a prompt's first token, which has none."""
    return None if math.isnan(logprob) else logprob
