"""Requests for answers in a conversation, and these answers: OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from llmc.engine.protocol import MOST_ALTERNATIVES
from llmc.serve.refusals import printable
from llmc.serve.schema import (
    Characters,
    Nullable,
    RequestLimits,
    TextRequest,
    TokenUsage,
    bounded_fields,
    described,
    integer,
    invalid,
    no_surrogate,
    unsupported,
)
from llmc.text.conversations import ROLES, Message

MOST_MESSAGES = 1024
PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
CONTENT: Any = {"anyOf": [{"type": "string"}, {"type": "array", "items": PART, "maxItems": 64}]}


def _text_of(content: Any) -> str:
    """Return the text of a message's content; parts that are no text are refused by their name."""
    if isinstance(content, str):
        return no_surrogate(content)
    if not isinstance(content, list):
        raise PydanticCustomError("invalid_value", "the content must be a text or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            name = printable(kind) if isinstance(kind, str) else "none"
            raise PydanticCustomError(
                "unsupported_parameter",
                "parts of the type '{name}' are not supported: this model reads text",
                {"name": name},
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("invalid_value", "a part of the type 'text' needs a text")
        texts.append(no_surrogate(part["text"]))
    return "".join(texts)


class ChatMessage(Nullable):
    """A message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of), WithJsonSchema(CONTENT)]
    tool_calls: unsupported([])  # type: ignore[valid-type]
    function_call: unsupported()  # type: ignore[valid-type]
    audio: unsupported()  # type: ignore[valid-type]


class ChatRequest(TextRequest):
    """A request for the next answer. :func:`chat_request_type` adds the bounds of one server."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: StrictBool = described(False, "Return the log probability of each token.")
    top_logprobs: integer(0, MOST_ALTERNATIVES) = described(  # type: ignore[valid-type]
        None, "Return this many alternatives of each token too; only with logprobs."
    )
    metadata: Any = described(None, "Accepted and ignored.")
    parallel_tool_calls: Any = described(None, "Accepted and ignored: there are no tools.")
    store: unsupported(False)  # type: ignore[valid-type]
    tools: unsupported([])  # type: ignore[valid-type]
    tool_choice: unsupported("none", "auto")  # type: ignore[valid-type]
    functions: unsupported([])  # type: ignore[valid-type]
    function_call: unsupported("none", "auto")  # type: ignore[valid-type]
    response_format: unsupported({"type": "text"})  # type: ignore[valid-type]
    modalities: unsupported(["text"])  # type: ignore[valid-type]
    audio: unsupported()  # type: ignore[valid-type]
    prediction: unsupported()  # type: ignore[valid-type]
    reasoning_effort: unsupported()  # type: ignore[valid-type]
    web_search_options: unsupported()  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs': true")
        return self

    @property
    def alternatives(self) -> int | None:
        """The number of alternatives per token; None: no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of an answer; None: as many as the context holds."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def conversation(self) -> Sequence[Message]:
        """The messages."""
        return [Message(ROLES[each.role], each.content, counts=False) for each in self.messages]


def chat_request_type(model: str, limits: RequestLimits) -> type[ChatRequest]:
    """Return the type of requests to a server with one model and limits."""
    tokens: Any = integer(1, limits.max_tokens)
    text = "The most tokens of an answer. Default: as many as the context holds."
    fields = bounded_fields(model, limits) | {
        "max_completion_tokens": (tokens, described(None, text)),
        "max_tokens": (tokens, described(None, "The older name of max_completion_tokens.")),
    }
    return create_model("ChatRequest", __base__=ChatRequest, **fields)


class ChatAlternative(BaseModel):
    """A token that could have stood at a place of an answer."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(ChatAlternative):
    """A token of an answer."""

    top_logprobs: list[ChatAlternative]


class ChatLogprobs(BaseModel):
    """Log probabilities of the tokens of an answer."""

    content: list[ChatToken]
    refusal: None


class ChatAnswer(BaseModel):
    """What the assistant says."""

    role: Literal["assistant"]
    content: Characters
    refusal: None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The answer to a request for chat completions."""

    id: StrictStr
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    dropped_messages: int = Field(
        0, description="The oldest messages that were left out, so that an answer has room."
    )
