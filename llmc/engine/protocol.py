"""Requests to ``llmc-native generate`` and its events: docs/reference/generate.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from llmc.config import SampleConfig
from llmc.errors import LlmcError, Usage

NO_TOKEN = -1  # as an end-of-text token: no token ends the text
MOST_ALTERNATIVES = 20
MOST_BIASES = 300
LONGEST_LINE = 1 << 20  # bytes of a request, with its newline
REASONS = ("length", "stop", "cancelled", "error")


@dataclass(frozen=True)
class Request:
    """A prompt to continue, and how."""

    prompt: Sequence[int]  # token ids, at least one
    # The sampling settings; ``dtype`` belongs to the process and is not sent.
    settings: SampleConfig = field(default_factory=SampleConfig)
    eot: int = NO_TOKEN  # the token that ends the text; :data:`NO_TOKEN` for none
    logprobs: int = 0  # number of most likely tokens to report at each position, at most 20
    # Subtracted from the logit of a token: for each time that it was written, and once if it was.
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)  # added to the logit of each token
    echo: bool = False  # report the prompt's tokens, from the second on, as :class:`PromptToken`

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
        words: dict[str, object] = {
            "tokens": chosen.tokens,
            "temperature": chosen.temperature,
            "top-k": chosen.top_k,
            "top-p": chosen.top_p,
            "min-p": chosen.min_p,
            "repetition-penalty": chosen.repetition_penalty,
            "seed": chosen.seed,
            "eot": self.eot,
            "logprobs": self.logprobs,
        }
        if self.frequency_penalty or self.presence_penalty:
            words["frequency-penalty"] = self.frequency_penalty
            words["presence-penalty"] = self.presence_penalty
        if self.bias:
            words["bias"] = ",".join(f"{token}:{added}" for token, added in self.bias.items())
        if self.echo:
            words["echo"] = 1
        words["prompt"] = ",".join(map(str, self.prompt))
        return f"request {identity} " + " ".join(f"{key} {value}" for key, value in words.items())


@dataclass(frozen=True)
class Token:
    """A token of a text."""

    token: int  # its id
    # Natural logarithm of its probability in the model's distribution, at temperature 1 and before
    # any filter.
    logprob: float
    # The most likely tokens at its position with their logprobs, most likely first.
    top: tuple[tuple[int, float], ...] = ()
    # Of a text's first token: how many of the prompt's tokens were in the cache.
    cached: int = 0


@dataclass(frozen=True)
class PromptToken(Token):
    """A token of the prompt."""


@dataclass(frozen=True)
class End:
    """The end of a text."""

    # ``length`` (all tokens are written), ``stop`` (the last one was end-of-text), ``cancelled`` or
    # ``error``.
    reason: str
    prompt_tokens: int = 0  # tokens of the prompt
    tokens: int = 0  # tokens written
    prompt_ms: float = 0.0  # time to read the prompt, in milliseconds
    ms: float = 0.0  # total time without waiting for a slot, in milliseconds
    message: str = ""  # the error; empty unless the reason is ``error``
    failure: LlmcError | None = None  # why the engine itself ended; None if it still runs

    def raise_failure(self) -> None:
        """Raise LlmcError if the engine ended or refused the request."""
        if self.failure is not None:
            raise self.failure
        if self.reason == "error":
            raise LlmcError(self.message)


@dataclass(frozen=True)
class Ready:
    """The engine has loaded its model."""

    slots: int  # requests that are written at the same time
    positions: int  # length of the KV cache in tokens; a longer text continues from its newer half
    vocab_size: int  # V; ids of a prompt must be below
    dtype: str  # type of the weights in memory: fp32, bf16 or int8
    isa: str  # the instruction set
    memory_bytes: int  # memory that was allocated


def event_of(found: dict[str, Any]) -> Ready | Token | End:
    """Return the event in a line of the engine.

    Raises:
        ValueError, KeyError, TypeError: it is not an event, or the reason of an end is unknown.
    """
    kind = found["event"]
    if kind == "ready":
        return Ready(**{each.name: found[each.name] for each in fields(Ready)})
    if kind in ("token", "prompt"):
        top = tuple((int(token), float(logprob)) for token, logprob in found.get("top", ()))
        made = Token if kind == "token" else PromptToken
        cached = int(found.get("cached", 0))
        return made(int(found["token"]), float(found["logprob"]), top, cached)
    if kind != "end" or found["reason"] not in REASONS:
        raise KeyError(kind)
    known = {each.name for each in fields(End)} - {"failure"}
    return End(**{name: value for name, value in found.items() if name in known})
