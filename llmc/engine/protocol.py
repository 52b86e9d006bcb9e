"""What is asked of ``llmc-native generate``, and what it tells: a line each.

docs/reference/generate.md describes the lines. Here they are values, and nothing is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmc.config import SampleConfig
from llmc.errors import LlmcError, Usage

NO_TOKEN = -1  # as an end-of-text token: none ends the text
MOST_ALTERNATIVES = 20
LONGEST_LINE = 1 << 20  # bytes of a request, its newline included
REASONS = ("length", "stop", "cancelled", "error")


@dataclass(frozen=True)
class Request:
    """What to go on from, and how.

    Attributes:
        prompt: token ids, at least one.
        settings: tokens, temperature and so on; ``dtype`` is the process's, not the request's.
        eot: the token that ends the text; :data:`NO_TOKEN` for none.
        logprobs: how many of the most likely tokens to tell of each position, at most 20.
    """

    prompt: Sequence[int]
    settings: SampleConfig = field(default_factory=SampleConfig)
    eot: int = NO_TOKEN
    logprobs: int = 0

    def __post_init__(self) -> None:
        """Refuse what the engine would.

        Raises:
            Usage: there is no prompt, or a number that means nothing.
        """
        if not self.prompt:
            raise Usage("a prompt needs at least one token: begin with end-of-text")
        if not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise Usage(f"logprobs must be between 0 and {MOST_ALTERNATIVES}, not {self.logprobs}")

    def line(self, identity: str) -> str:
        """Return the line that asks the engine for it."""
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
    """One token that was written.

    Attributes:
        token: its id.
        logprob: the natural logarithm of its probability, of the model's own distribution: at
            temperature 1 and before any filter.
        top: the most likely tokens in its place with their logprobs, the likeliest first; as many
            as the request asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class End:
    """Nothing more comes.

    Attributes:
        reason: ``length`` (all tokens are written), ``stop`` (the last one was end-of-text),
            ``cancelled`` or ``error``.
        prompt_tokens: how many tokens the prompt had.
        tokens: how many were written.
        prompt_ms: how long reading the prompt took, in milliseconds.
        ms: how long all of it took, in milliseconds; the time that it waited is no part of it.
        message: what went wrong; empty unless the reason is ``error``.
        failure: why the engine itself ended, None where it goes on.
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
    """What the engine said when its model was loaded.

    Attributes:
        slots: requests that are written at the same time; others wait their turn.
        positions: tokens that a text may be long before it is read again from its newer half.
        vocab_size: V; every id of a prompt is below it.
        dtype: what the weights are stored as: fp32, bf16 or int8.
        isa: the instruction set.
        memory_bytes: all that was taken.
    """

    slots: int
    positions: int
    vocab_size: int
    dtype: str
    isa: str
    memory_bytes: int


def event_of(fields: dict[str, Any]) -> Ready | Token | End:
    """Return what a line of the engine tells.

    Raises:
        ValueError, KeyError, TypeError: it is no event.
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
    """Return the end that an event tells.

    Raises:
        KeyError: it is another event, or ends for no known reason.
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
    """Raise what an end tells of a failure; return where it tells of none.

    Raises:
        LlmcError: the engine ended, and why, or could not do what was asked.
    """
    if end.failure is not None:
        raise end.failure
    if end.reason == "error":
        raise LlmcError(end.message)
