"""What a request for completions may hold: one table, checked by it and published as a schema.

The names and defaults are those of OpenAI's completions. ``top_k``, ``min_p``,
``repetition_penalty``, ``ignore_eos`` and ``truncate_prompt_tokens`` go beyond them, as in vLLM and
others. What the engine cannot do is refused unless it asks for nothing, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmc.serving.refusals import Refused, shown

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
    """One key of a request: its JSON schema, its default, and whether the engine can do it."""

    schema: dict[str, Any]
    default: Any = None
    check: Callable[[str, Any, dict[str, Any]], Any] = field(default=lambda name, value, _: value)


def parameters(model: str, limits: Limits) -> dict[str, Parameter]:
    """Return every parameter there is, by name."""
    ids = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": limits.vocab_size - 1},
        "minItems": 1,
        "maxItems": limits.positions - 1,
    }
    return {
        "model": Parameter(
            {"type": "string", "enum": [model], "description": "The model that is served."},
            model,
            _model,
        ),
        "prompt": Parameter(
            {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "array",
                        "items": {"type": "string"},
                        "minItems": 1,
                        "maxItems": limits.choices,
                    },
                    ids,
                    {"type": "array", "items": ids, "minItems": 1, "maxItems": limits.choices},
                ],
                "description": "Text, token ids, or a list of either. None: a new document.",
            },
            "",
            _prompts,
        ),
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
        "stop": Parameter(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS},
                    {
                        "type": "array",
                        "items": {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": MAX_STOP_CHARACTERS,
                        },
                        "maxItems": MAX_STOPS,
                    },
                    {"type": "null"},
                ],
                "description": "Where one of these comes, the text ends before it.",
            },
            None,
            _stops,
        ),
        "logprobs": _integer(
            None,
            0,
            MAX_LOGPROBS,
            "Tell each token's log probability, and of so many of the likeliest.",
        ),
        "echo": _flag("Begin the text with the prompt; not together with logprobs."),
        "stream": _flag("Answer with server-sent events, as the text is made."),
        "stream_options": Parameter(
            {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"include_usage": {"type": "boolean"}},
                        "additionalProperties": False,
                    },
                    {"type": "null"},
                ],
                "description": "include_usage: end a stream with the usage.",
            },
            None,
            _stream_options,
        ),
        "ignore_eos": _flag("Write on after the end of a document."),
        "truncate_prompt_tokens": _integer(
            None, 1, limits.positions - 1, "Of longer prompts, only so many of the last tokens."
        ),
        "user": Parameter(
            {"type": ["string", "null"], "description": "Accepted, and not used."},
            None,
            _user,
        ),
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
    def check(name: str, value: Any, _: dict[str, Any]) -> int | None:
        found = _as_integer(value)
        if value is not None and (found is None or not low <= found <= high):
            raise _wrong(name, f"an integer from {low} to {high}, or null")
        return found

    bounds = {"type": ["integer", "null"], "minimum": low, "maximum": high}
    return Parameter({**bounds, "default": default, "description": text}, default, check)


def _number(default: float, low: float, high: float, text: str) -> Parameter:
    def check(name: str, value: Any, _: dict[str, Any]) -> float | None:
        if value is None:
            return None
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise _wrong(name, f"a number from {low:g} to {high:g}, or null")
        return float(value)

    bounds = {"type": ["number", "null"], "minimum": low, "maximum": high}
    return Parameter({**bounds, "default": default, "description": text}, default, check)


def _flag(text: str) -> Parameter:
    def check(name: str, value: Any, _: dict[str, Any]) -> bool:
        if value is not None and type(value) is not bool:
            raise _wrong(name, "true or false")
        return bool(value)

    schema = {"type": ["boolean", "null"], "default": False, "description": text}
    return Parameter(schema, False, check)


def _neutral(values: list[Any]) -> Parameter:
    """Return a parameter that may only ask for nothing."""

    def check(name: str, value: Any, _: dict[str, Any]) -> None:
        if type(value) is bool or value not in values:
            raise Refused(
                400,
                f"'{name}' is not supported by this server: leave it out",
                code="unsupported_parameter",
                param=name,
            )

    return Parameter(
        {"enum": values, "description": "Not supported: only what changes nothing."}, None, check
    )


def _model(name: str, value: Any, schema: dict[str, Any]) -> str:
    (served,) = schema["enum"]
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


def _user(name: str, value: Any, _: dict[str, Any]) -> None:
    if value is not None and type(value) is not str:
        raise _wrong(name, "a string")


def _stops(name: str, value: Any, _: dict[str, Any]) -> list[str]:
    found = [value] if type(value) is str else value if value is not None else []
    if (
        type(found) is not list
        or len(found) > MAX_STOPS
        or not all(type(stop) is str and 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in found)
    ):
        raise _wrong(
            name, f"a text of up to {MAX_STOP_CHARACTERS} characters, or up to {MAX_STOPS} of them"
        )
    return found


def _stream_options(name: str, value: Any, _: dict[str, Any]) -> dict[str, Any] | None:
    if value is not None and (
        type(value) is not dict
        or not value.keys() <= {"include_usage"}
        or not all(type(wanted) is bool for wanted in value.values())
    ):
        raise _wrong(name, "an object with include_usage, true or false")
    return value


def _prompts(name: str, value: Any, schema: dict[str, Any]) -> list[str | list[int]]:
    _, texts, ids, _ = schema["anyOf"]
    if type(value) is str:
        return [value]
    if type(value) is list and value:
        if _as_integer(value[0]) is not None:
            return [_ids(name, value, ids)]
        if len(value) <= texts["maxItems"] and type(value[0]) is list:
            return [_ids(name, item, ids) for item in value]
        if len(value) <= texts["maxItems"] and all(type(item) is str for item in value):
            return list(value)
    raise _wrong(
        name, f"a text, a list of token ids, or a list of up to {texts['maxItems']} of either"
    )


def _ids(name: str, value: Any, schema: dict[str, Any]) -> list[int]:
    most, last = schema["maxItems"], schema["items"]["maximum"]
    if type(value) is not list or not value:
        raise _wrong(name, "made of texts or of lists of token ids, not of both")
    if len(value) > most:
        raise too_long(len(value), most)
    found = [number for item in value if (number := _as_integer(item)) is not None]
    if len(found) < len(value) or not all(0 <= number <= last for number in found):
        raise _wrong(name, f"made of token ids from 0 to {last}")
    return found


def too_long(count: int | str, most: int) -> Refused:
    """Return the refusal of a prompt with more tokens than the model can look at."""
    return Refused(
        400,
        f"This model's context is {most + 1} tokens, of which one is to be written: the prompt has "
        f"{count}, and {most} at most may be",
        code="context_length_exceeded",
        param="prompt",
    )
