"""Requests to ``llmc-native generate`` and its events: docs/reference/generate.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from llmc.config import SampleConfig
from llmc.errors import LlmcError, Usage

NO_TOKEN = -1  # as an end-of-text token: no token ends the text
MOST_ALTERNATIVES = 20
LONGEST_LINE = 1 << 20  # bytes of a request, with its newline
REASONS = ("length", "stop", "cancelled", "error")


@dataclass(frozen=True)
class Request:
    """A prompt to continue, and how.

    Attributes:
        prompt: token ids, at least one.
        settings: the sampling settings; ``dtype`` belongs to the process and is not sent.
        eot: the token that ends the text; :data:`NO_TOKEN` for none.
        logprobs: number of most likely tokens to report at each position, at most 20.
    """

    prompt: Sequence[int]
    settings: SampleConfig = field(default_factory=SampleConfig)
    eot: int = NO_TOKEN
    logprobs: int = 0

    def __post_init__(self) -> None:
        """Check what the engine would refuse.

        Raises:
            Usage: the prompt is empty, or a number is out of range.
        """
        if not self.prompt:
            raise Usage("a prompt needs at least one token: use end-of-text")
        if not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise Usage(f"logprobs must be between 0 and {MOST_ALTERNATIVES}, not {self.logprobs}")

    def line(self, identity: str) -> str:
        """Return the request as a line for the engine."""
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
    """A token of a text.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability in the model's distribution, at temperature 1
            and before any filter.
        top: the most likely tokens at its position with their logprobs, most likely first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class End:
    """The end of a text.

    Attributes:
        reason: ``length`` (all tokens are written), ``stop`` (the last one was end-of-text),
            ``cancelled`` or ``error``.
        prompt_tokens: tokens of the prompt.
        tokens: tokens written.
        prompt_ms: time to read the prompt, in milliseconds.
        ms: total time without waiting for a slot, in milliseconds.
        message: the error; empty unless the reason is ``error``.
        failure: why the engine itself ended; None if it still runs.
    """

    reason: str
    prompt_tokens: int = 0
    tokens: int = 0
    prompt_ms: float = 0.0
    ms: float = 0.0
    message: str = ""
    failure: LlmcError | None = None

    def raise_failure(self) -> None:
        """Raise LlmcError if the engine ended or refused the request."""
        if self.failure is not None:
            raise self.failure
        if self.reason == "error":
            raise LlmcError(self.message)


@dataclass(frozen=True)
class Ready:
    """The engine has loaded its model.

    Attributes:
        slots: requests that are written at the same time.
        positions: length of the KV cache in tokens; a longer text continues from its newer half.
        vocab_size: V; ids of a prompt must be below.
        dtype: type of the weights in memory: fp32, bf16 or int8.
        isa: the instruction set.
        memory_bytes: memory that was allocated.
    """

    slots: int
    positions: int
    vocab_size: int
    dtype: str
    isa: str
    memory_bytes: int


def event_of(found: dict[str, Any]) -> Ready | Token | End:
    """Return the event in a line of the engine.

    Raises:
        ValueError, KeyError, TypeError: it is not an event, or the reason of an end is unknown.
    """
    kind = found["event"]
    if kind == "ready":
        return Ready(**{each.name: found[each.name] for each in fields(Ready)})
    if kind == "token":
        top = tuple((int(token), float(logprob)) for token, logprob in found.get("top", ()))
        return Token(int(found["token"]), float(found["logprob"]), top)
    if kind != "end" or found["reason"] not in REASONS:
        raise KeyError(kind)
    known = {each.name for each in fields(End)} - {"failure"}
    return End(**{name: value for name, value in found.items() if name in known})
