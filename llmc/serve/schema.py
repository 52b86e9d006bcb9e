"""Requests and answers as pydantic models: FastAPI checks requests by them and publishes them.

Names and defaults are those of OpenAI's completions. ``top_k``, ``min_p``, ``repetition_penalty``,
``ignore_eos`` and ``truncate_prompt_tokens`` are additions, named as in vLLM, and ``special`` is
another. A parameter that the engine does not support is refused unless its value changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, LiteralString

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    StrictStr,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from llmc.config import SAMPLE_SETTINGS
from llmc.engine.protocol import MOST_ALTERNATIVES, MOST_BIASES
from llmc.serve.refusals import Refused, printable

MAX_CHOICES, MAX_STOPS, MAX_STOP_CHARACTERS = 128, 4, 256


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for."""

    positions: int  # the model's context; a prompt must be shorter
    vocab_size: int  # V; ids of a prompt must be below
    max_tokens: int  # tokens per completion
    choices: int = MAX_CHOICES  # completions per request


def _whole(value: Any) -> Any:
    """Return 1.0 as 1, which JSON Schema calls an integer."""
    return int(value) if type(value) is float and value.is_integer() else value


def no_surrogate(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise PydanticCustomError("no_character", "half of a surrogate pair is not a character")
    return text


def invalid(param: str, message: LiteralString) -> PydanticCustomError:
    """Return the error of a parameter that does not fit the others."""
    return PydanticCustomError("invalid_value", message, {"param": param})


def _nullable(schema: dict[str, Any]) -> None:
    """Allow null, which stands for the default, in a field's JSON schema."""
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    elif "type" not in schema:
        schema["anyOf"] = [*schema.get("anyOf", [{"$ref": schema.pop("$ref", "")}]), NULL]


NULL = {"type": "null"}
Number = Annotated[float, Strict()]
Characters = Annotated[StrictStr, AfterValidator(no_surrogate)]
StopString = Annotated[Characters, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
BIAS_ID = "^(0|[1-9][0-9]{0,8})$"
BiasId = Annotated[StrictStr, Field(pattern=BIAS_ID)]
BiasNumber = Annotated[Number, Field(ge=-100, le=100)]
Biases = Annotated[
    dict[BiasId, BiasNumber],
    Field(max_length=MOST_BIASES),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": BIAS_ID},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MOST_BIASES,
        }
    ),
]
Stops = Annotated[list[StopString], Field(max_length=MAX_STOPS)]


def help_of(setting: str) -> str:
    """Return what a sampling setting does, as in the command line's help."""
    return f"{SAMPLE_SETTINGS[setting].help}."


def integer(low: int, high: int) -> Any:
    """Return the type of whole numbers from ``low`` to ``high``."""
    return Annotated[int, Field(ge=low, le=high), Strict(), BeforeValidator(_whole)]


def described(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    """Return a field with a description, and bounds; null stands for its default."""
    return Field(default, ge=low, le=high, description=text, json_schema_extra=_nullable)


def unsupported(*neutral: Any) -> Any:
    """Return a field that may only have values that change nothing."""

    def check(value: Any) -> None:
        if not any(type(value) is type(each) and value == each for each in neutral):
            raise PydanticCustomError(
                "unsupported_parameter", "not supported by this server: leave it out"
            )

    text = "Not supported; only values that change nothing are accepted."
    schema: dict[str, Any] = {"enum": [*neutral, None]}
    field = Field(default=None, description=text, json_schema_extra=schema)
    return Annotated[Any, BeforeValidator(check), field]


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool | None = Field(
        default=None, description="End the stream with the usage."
    )
    include_obfuscation: StrictBool | None = Field(
        default=None, description="Accepted and ignored."
    )


# What the fields' own schemas do not express.
CONDITIONS: list[Any] = [
    {
        "anyOf": [
            {"properties": {"stream_options": NULL}},
            {"properties": {"stream": {"const": True}}, "required": ["stream"]},
        ]
    },
]


class Nullable(BaseModel):
    """A model whose fields may be null, which stands for the default."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        nulls = {key for key in cls.model_fields if fields.get(key, 0) is None}
        return {key: value for key, value in fields.items() if key not in nulls}


class TextRequest(Nullable):
    """What all requests for texts have."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, json_schema_extra={"allOf": CONDITIONS}
    )

    model: StrictStr = ""
    n: int = 1
    temperature: Number = described(1.0, help_of("temperature"), 0, 2)
    top_p: Number = described(1.0, help_of("top_p"), 0, 1)
    top_k: int = 0
    min_p: Number = described(0.0, help_of("min_p"), 0, 1)
    repetition_penalty: Number = described(1.0, help_of("repetition_penalty"), 0.1, 10)
    seed: integer(-(1 << 63), 1 << 63) = described(  # type: ignore[valid-type]
        None, f"{help_of('seed')} Default: a random one."
    )
    stop: StopString | Stops = described([], "The text ends before the first of these strings.")
    frequency_penalty: Number = described(
        0.0, "Subtracted from a token's logit each time that it was written.", -2, 2
    )
    presence_penalty: Number = described(
        0.0, "Subtracted from a token's logit once if it was written.", -2, 2
    )
    logit_bias: Biases = described({}, "Added to the logits of these token ids.")
    stream: StrictBool = described(
        False, "Answer with server-sent events while the text is written."
    )
    stream_options: StreamOptions = described(StreamOptions(), "Only with stream.")
    ignore_eos: StrictBool = described(False, "Continue after the end of a document.")
    user: StrictStr = described("", "Accepted and ignored.")

    @model_validator(mode="after")
    def _check_stream(self) -> TextRequest:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise invalid("stream_options", "'stream_options' needs 'stream': true")
        return self

    @property
    def candidates(self) -> int:
        """How many texts are written for each prompt."""
        return self.n

    @property
    def bias(self) -> dict[int, float]:
        """What is added to the logits, by token id."""
        return {int(token): added for token, added in self.logit_bias.items()}

    @property
    def stops(self) -> Sequence[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


def bounded_fields(model: str, limits: RequestLimits) -> dict[str, Any]:
    """Return the fields of all requests that depend on the server's model and limits."""
    named: Any = {"type": ["string", "null"], "enum": [model, None]}
    return {
        "model": (
            Annotated[StrictStr, WithJsonSchema(named)],
            described(model, "The served model."),
        ),
        "n": (integer(1, limits.choices), described(1, "Completions per prompt.")),
        "top_k": (integer(0, limits.vocab_size), described(0, help_of("top_k"))),
    }


class CompletionRequest(TextRequest):
    """A request for completions. :func:`request_type` adds the bounds of one server."""

    prompt: Any = ""
    max_tokens: int = 16
    best_of: int | None = None
    logprobs: integer(0, MOST_ALTERNATIVES) = described(  # type: ignore[valid-type]
        None, "Return the log probability of each token and of this many alternatives."
    )
    echo: StrictBool = described(False, "Begin the text with the prompt; logprobs tell of it too.")
    special: StrictBool = described(False, "<|endoftext|> and the like in a prompt are tokens.")
    truncate_prompt_tokens: int | None = None
    suffix: unsupported()  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _check_best_of(self) -> CompletionRequest:
        if self.candidates < self.n:
            message = "'best_of' must not be less than 'n', which are chosen from them"
            raise invalid("best_of", message)
        if self.candidates > self.n and self.stream:
            raise invalid(
                "best_of",
                "'best_of' chooses from whole texts and cannot be streamed: leave out 'stream'",
            )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts: texts or lists of ids."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return self.prompt if several else [self.prompt]

    @property
    def candidates(self) -> int:
        """How many completions are written for each prompt."""
        return self.n if self.best_of is None else self.best_of


def request_type(model: str, limits: RequestLimits) -> type[CompletionRequest]:
    """Return the type of requests to a server with one model and limits."""
    most = limits.positions - 1
    token: Any = integer(0, limits.vocab_size - 1)
    # Completions refuses longer lists, with a code of its own.
    ids: Any = Annotated[list[token], Field(min_length=1, json_schema_extra={"maxItems": most})]
    up_to: Any = Field(min_length=1, max_length=limits.choices)
    texts: Any = Characters | Annotated[list[Characters], up_to]
    prompts = "Text, token ids, or a list of either. Default: a new document."
    last = "Keep only this many last tokens of a prompt."
    fields = bounded_fields(model, limits) | {
        "prompt": (texts | ids | Annotated[list[ids], up_to], described("", prompts)),
        "max_tokens": (integer(0, limits.max_tokens), described(16, help_of("tokens"))),
        "best_of": (
            integer(1, limits.choices),
            described(None, "Write this many completions per prompt and return the n likeliest."),
        ),
        "truncate_prompt_tokens": (integer(1, most), described(None, last)),
    }
    return create_model("CompletionRequest", __base__=CompletionRequest, **fields)


def refusal_of(errors: Sequence[Any]) -> Refused:
    """Return the refusal of a request that fails validation, from pydantic's errors."""
    first = errors[0]
    kind, loc = first["type"], first["loc"][1:]
    context = first.get("ctx", {})
    if kind == "json_invalid":
        return Refused(400, f"The body is not valid JSON: {printable(context['error'])}")
    if "param" in context:
        return Refused(400, first["msg"], code=kind, param=context["param"])
    if not loc:
        return Refused(400, "The body must be a JSON object")
    name = printable(str(loc[0]))
    param = name if name == loc[0] else None
    if kind == "extra_forbidden" and len(loc) == 1:
        message = f"Unrecognized request argument supplied: {name}"
        return Refused(400, message, code="unknown_parameter", param=param)
    place = _place(loc)
    reasons = dict.fromkeys(
        error["msg"][0].lower() + error["msg"][1:]
        for error in errors
        if _place(error["loc"][1:]) == place
    )
    code = kind if kind == "unsupported_parameter" else "invalid_value"
    return Refused(400, f"'{place}': {', or '.join(reasons)}", code=code, param=param)


def _place(loc: Sequence[str | int]) -> str:
    """Return a parameter's name; of a list of objects with the object's number and its field."""
    name, *inner = (printable(str(step)) for step in loc)
    if len(loc) < 2 or not isinstance(loc[1], int):
        return name  # what follows names pydantic's alternatives
    return f"{name}[{inner[0]}]" + "".join(f".{field}" for field in inner[1:2])


class ModelCard(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llmc"


class ModelList(BaseModel):
    """The models of this server: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Logprobs(BaseModel):
    """Log probabilities of the tokens of a text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class PromptDetails(BaseModel):
    """Of the prompts' tokens."""

    cached_tokens: int  # that were in the prefix cache


class TokenUsage(BaseModel):
    """Counted tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Completion(BaseModel):
    """The answer to a request for completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage


class ErrorFields(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """A refusal, in the shape of OpenAI's errors."""

    error: ErrorFields
