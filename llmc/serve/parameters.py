"""What a request for completions may hold: one table, checked by it and published as a schema.

The names and defaults are those of OpenAI's completions. ``top_k``, ``min_p``,
``repetition_penalty``, ``ignore_eos`` and ``truncate_prompt_tokens`` go beyond them, as in vLLM and
others. What the engine cannot do is refused unless it asks for nothing, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmc.serve.refusals import Refused, shown

MAX_CHOICES, MAX_LOGPROBS, MAX_STOPS, MAX_STOP_CHARACTERS = 128, 20, 4, 256
SEEDS = 1 << 53  # that the engine tells apart


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        positions: the model's context: a prompt must be shorter.
        vocab_size: V: ids in a prompt are below.
        max_tokens: tokens per completion at most.
        choices: completions per request at most.
    """

    positions: int
    vocab_size: int
    max_tokens: int
    choices: int = MAX_CHOICES


@dataclass(frozen=True)
class Parameter:
    """One key of a request.

    Attributes:
        schema: what it may be, as a JSON schema.
        check: returns what a value means, by its key's name; refuses what the schema does.
        default: the value where it is left out.
    """

    schema: dict[str, Any]
    check: Callable[[str, Any], Any]
    default: Any = None


def parameters(model: str, limits: Limits) -> dict[str, Parameter]:
    """Return every parameter there is, by name."""
    return {
        "model": _model(model),
        "prompt": _prompt(limits),
        "max_tokens": _integer(16, 0, limits.max_tokens, "Tokens to write after the prompt."),
        "n": _integer(1, 1, limits.choices, "Completions per prompt."),
        "temperature": _number(1.0, 0, 2, "Below 1 likelier words, 0 always the likeliest."),
        "top_p": _number(1.0, 0, 1, "Draw from the likeliest that together reach this."),
        "top_k": _integer(0, 0, limits.vocab_size, "Draw from so many of the likeliest; 0: all."),
        "min_p": _number(0.0, 0, 1, "Only tokens at least so likely, relative to the likeliest."),
        "repetition_penalty": _number(
            1.0, 0.1, 10, "Above 1, tokens that were there are less likely."
        ),
        "seed": _integer(
            None,
            -(1 << 63),
            (1 << 63) - 1,
            "The same seed writes the same text. None: a random one.",
        ),
        "stop": _stop(),
        "logprobs": _integer(
            None,
            0,
            MAX_LOGPROBS,
            "Tell each token's log probability, and of so many of the likeliest.",
        ),
        "echo": _flag("Begin the text with the prompt; not together with logprobs."),
        "stream": _flag("Answer with server-sent events, as the text is made."),
        "stream_options": _stream_options(),
        "ignore_eos": _flag("Write on after the end of a document."),
        "truncate_prompt_tokens": _integer(
            None, 1, limits.positions - 1, "Of longer prompts, only so many of the last tokens."
        ),
        "user": _user(),
        **{name: _neutral(values) for name, values in UNSUPPORTED.items()},
    }


# What OpenAI's servers can do and this one cannot: values that ask for nothing are fine.
UNSUPPORTED: dict[str, list[Any]] = {
    "best_of": [1, None],
    "frequency_penalty": [0, None],
    "presence_penalty": [0, None],
    "logit_bias": [{}, None],
    "suffix": [None],
}


def request_schema(known: dict[str, Parameter]) -> dict[str, Any]:
    """Return the JSON schema of a request."""
    return {
        "type": "object",
        "properties": {name: parameter.schema for name, parameter in known.items()},
        "additionalProperties": False,
        "allOf": [
            {"not": _both(echo={"const": True}, logprobs={"type": "integer"})},
            {"not": _both(stream_options={"type": "object"}, stream={"enum": [False, None]})},
            {
                "anyOf": [
                    {"properties": {"stream_options": {"type": "null"}}},
                    {"required": ["stream"]},
                ]
            },
        ],
    }


def _both(**properties: Any) -> dict[str, Any]:
    """Return the schema of requests that have all of these."""
    return {"properties": properties, "required": list(properties)}


def _wrong(name: str, wanted: str) -> Refused:
    return Refused(400, f"'{name}' must be {wanted}", code="invalid_value", param=name)


def _as_integer(value: Any) -> int | None:
    """Return an integer as JSON Schema means it (1.0 is one), None for anything else."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _integer(default: int | None, low: int, high: int, text: str) -> Parameter:
    wanted = f"an integer from {low} to {high}" if low < high else str(low)

    def check(name: str, value: Any) -> int | None:
        if value is None:
            return default
        found = _as_integer(value)
        if found is None or not low <= found <= high:
            raise _wrong(name, f"{wanted}, or null")
        return found

    bounds = {"type": ["integer", "null"], "minimum": low, "maximum": high}
    return Parameter({**bounds, "default": default, "description": text}, check, default)


def _number(default: float, low: float, high: float, text: str) -> Parameter:
    def check(name: str, value: Any) -> float:
        if value is None:
            return default
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise _wrong(name, f"a number from {low:g} to {high:g}, or null")
        return float(value)

    bounds = {"type": ["number", "null"], "minimum": low, "maximum": high}
    return Parameter({**bounds, "default": default, "description": text}, check, default)


def _flag(text: str) -> Parameter:
    def check(name: str, value: Any) -> bool:
        if value is not None and type(value) is not bool:
            raise _wrong(name, "true or false")
        return bool(value)

    schema = {"type": ["boolean", "null"], "default": False, "description": text}
    return Parameter(schema, check, False)


def _neutral(values: list[Any]) -> Parameter:
    """Return a parameter that may only ask for nothing."""

    def check(name: str, value: Any) -> None:
        if type(value) is bool or value not in values:
            raise Refused(
                400,
                f"'{name}' is not supported by this server: leave it out",
                code="unsupported_parameter",
                param=name,
            )

    return Parameter(
        {"enum": values, "description": "Not supported: only what changes nothing."}, check
    )


def _model(served: str) -> Parameter:
    def check(name: str, value: Any) -> str:
        if type(value) is not str:
            raise _wrong(name, "the name of a model")
        if value != served:
            raise Refused(
                404,
                f"The model '{shown(value)}' does not exist: this server has '{served}'",
                code="model_not_found",
                param=name,
            )
        return value

    schema = {"type": "string", "enum": [served], "description": "The model that is served."}
    return Parameter(schema, check, served)


def _user() -> Parameter:
    def check(name: str, value: Any) -> None:
        if value is not None and type(value) is not str:
            raise _wrong(name, "a string")

    return Parameter({"type": ["string", "null"], "description": "Accepted, and not used."}, check)


def _stop() -> Parameter:
    def check(name: str, value: Any) -> list[str]:
        found = [] if value is None else [value] if type(value) is str else value
        if (
            type(found) is not list
            or len(found) > MAX_STOPS
            or not all(type(stop) is str and 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in found)
        ):
            raise _wrong(
                name,
                f"a text of up to {MAX_STOP_CHARACTERS} characters, or up to {MAX_STOPS} of them",
            )
        return found

    one = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
    several = {"type": "array", "items": one, "maxItems": MAX_STOPS}
    schema = {
        "anyOf": [one, several, {"type": "null"}],
        "description": "Where one of these comes, the text ends before it.",
    }
    return Parameter(schema, check)


def _stream_options() -> Parameter:
    known = ("include_usage", "include_obfuscation")

    def check(name: str, value: Any) -> dict[str, bool]:
        found = {} if value is None else value
        if (
            type(found) is not dict
            or not found.keys() <= set(known)
            or not all(wanted is None or type(wanted) is bool for wanted in found.values())
        ):
            raise _wrong(name, f"an object with {' or '.join(known)}, true or false")
        return {key: bool(wanted) for key, wanted in found.items()}

    options = {
        "type": "object",
        "properties": {key: {"type": ["boolean", "null"]} for key in known},
        "additionalProperties": False,
    }
    schema = {
        "anyOf": [options, {"type": "null"}],
        "description": "include_usage: end a stream with the usage. include_obfuscation: accepted, "
        "and not used.",
    }
    return Parameter(schema, check)


def _prompt(limits: Limits) -> Parameter:
    most, last = limits.positions - 1, limits.vocab_size - 1

    def ids_of(name: str, value: Any) -> list[int]:
        if type(value) is not list or not value:
            raise _wrong(name, "made of texts or of lists of token ids, not of both")
        if len(value) > most:
            raise too_long(str(len(value)), most)
        found = [number for item in value if (number := _as_integer(item)) is not None]
        if len(found) < len(value) or not all(0 <= number <= last for number in found):
            raise _wrong(name, f"made of token ids from 0 to {last}")
        return found

    def check(name: str, value: Any) -> list[str | list[int]]:
        if value is None:
            return [""]
        if type(value) is str:
            return [value]
        if type(value) is list and value:
            if _as_integer(value[0]) is not None:
                return [ids_of(name, value)]
            if len(value) <= limits.choices and type(value[0]) is list:
                return [ids_of(name, item) for item in value]
            if len(value) <= limits.choices and all(type(item) is str for item in value):
                return list(value)
        raise _wrong(
            name, f"a text, a list of token ids, or a list of up to {limits.choices} of either"
        )

    def up_to(count: int, items: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": items, "minItems": 1, "maxItems": count}

    ids = up_to(most, {"type": "integer", "minimum": 0, "maximum": last})
    text = {"type": "string"}
    several = [up_to(limits.choices, text), up_to(limits.choices, ids)]
    schema = {
        "anyOf": [text, ids, *several, {"type": "null"}],
        "description": "Text, token ids, or a list of either. None: a new document.",
    }
    return Parameter(schema, check)


def too_long(count: str, most: int) -> Refused:
    """Return the refusal of a prompt with more tokens than the model can look at.

    Args:
        count: how many it has, or what tells that it has more.
        most: how many it may have.
    """
    return Refused(
        400,
        f"This model's context is {most + 1} tokens, of which one is to be written: a prompt may "
        f"have {most}, and this one has {count}",
        code="context_length_exceeded",
        param="prompt",
    )
