"""The requests and events of ``llmc-native generate``, one line each, as values.

docs/guide/sampling.md describes the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmc.config import SampleConfig
from llmc.errors import LlmcError, Usage

NO_TOKEN = -1  # as the end-of-text token of a request: no token ends the text
MOST_ALTERNATIVES = 20
LONGEST_LINE = 1 << 20  # bytes of a request, its newline included
REASONS = ("length", "stop", "cancelled", "error")


@dataclass(frozen=True)
class Request:
    """A prompt to continue, and how.

    Attributes:
        prompt: token ids, at least one.
        settings: tokens, temperature and so on; ``dtype`` is ignored, because the process has one.
        eot: the token that ends the text; :data:`NO_TOKEN` for none.
        logprobs: how many of the most likely tokens to report at each position, at most 20.
    """

    prompt: Sequence[int]
    settings: SampleConfig = field(default_factory=SampleConfig)
    eot: int = NO_TOKEN
    logprobs: int = 0

    def __post_init__(self) -> None:
        """Check the request as the engine would.

        Raises:
            Usage: the prompt is empty, or ``logprobs`` is out of range.
        """
        if not self.prompt:
            raise Usage("a prompt needs at least one token: begin with end-of-text")
        if not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise Usage(f"logprobs must be between 0 and {MOST_ALTERNATIVES}, not {self.logprobs}")

    def line(self, identity: str) -> str:
        """Return the line that sends the request to the engine."""
        chosen = self.settings
        words = {
            "tokens": chosen.tokens,
            "temperature": chosen.temperature,
            "top-k": chosen.top_k,
            "top-p": chosen.top_p,
            "min-p": chosen.min_p,
            "repetition-penalty": chosen.repetition_penalty,
            "seed": chosen.seed,
            "eot": self.eot,
            "logprobs": self.logprobs,
            "prompt": ",".join(map(str, self.prompt)),
        }
        return f"request {identity} " + " ".join(f"{key} {value}" for key, value in words.items())


@dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
        token: its id.
        logprob: the natural logarithm of its probability in the model's own distribution, at
            temperature 1 and before any filter.
        top: the most likely tokens at its position with their logprobs, the likeliest first; as
            many as the request asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class End:
    """The end of a request.

    Attributes:
        reason: ``length`` (all tokens are generated), ``stop`` (the last one was end-of-text),
            ``cancelled`` or ``error``.
        prompt_tokens: length of the prompt.
        tokens: number of generated tokens.
        prompt_ms: time for the prompt, in milliseconds.
        ms: time for the whole request without waiting, in milliseconds.
        message: what went wrong; empty unless the reason is ``error``.
        failure: why the engine itself ended; None while it runs.
    """

    reason: str
    prompt_tokens: int = 0
    tokens: int = 0
    prompt_ms: float = 0.0
    ms: float = 0.0
    message: str = ""
    failure: LlmcError | None = None


@dataclass(frozen=True)
class Ready:
    """The engine has loaded its model.

    Attributes:
        slots: requests that run at the same time; others wait.
        positions: length of a text in tokens at which the newer half of it is read again.
        vocab_size: V; every id of a prompt is below it.
        dtype: how the weights are stored: fp32, bf16 or int8.
        isa: the instruction set.
        memory_bytes: all memory that was allocated.
    """

    slots: int
    positions: int
    vocab_size: int
    dtype: str
    isa: str
    memory_bytes: int


def event_of(fields: dict[str, Any]) -> Ready | Token | End:
    """Return the event of a line's fields.

    Raises:
        ValueError, KeyError, TypeError: the fields are not an event.
    """
    kind = fields["event"]
    if kind == "ready":
        return Ready(**{name: fields[name] for name in _READY})
    return _token(fields) if kind == "token" else _end(fields)


_READY = tuple(Ready.__dataclass_fields__)


def _token(fields: dict[str, Any]) -> Token:
    top = tuple((int(token), float(logprob)) for token, logprob in fields.get("top", ()))
    return Token(int(fields["token"]), float(fields["logprob"]), top)


def _end(fields: dict[str, Any]) -> End:
    """Return the :class:`End` of an event's fields.

    Raises:
        KeyError: it is another event, or the reason is unknown.
    """
    if fields["event"] != "end" or fields["reason"] not in REASONS:
        raise KeyError(fields["event"])
    return End(
        reason=fields["reason"],
        prompt_tokens=int(fields.get("prompt_tokens", 0)),
        tokens=int(fields.get("tokens", 0)),
        prompt_ms=float(fields.get("prompt_ms", 0)),
        ms=float(fields.get("ms", 0)),
        message=str(fields.get("message", "")),
    )


def raise_failure(end: End) -> None:
    """Raise the error of a request that failed; return if it did not fail.

    Raises:
        LlmcError: the engine ended, or refused the request.
    """
    if end.failure is not None:
        raise end.failure
    if end.reason == "error":
        raise LlmcError(end.message)
