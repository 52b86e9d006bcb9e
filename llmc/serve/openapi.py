"""The server described for programs: OpenAPI 3.1, from the table that requests are checked by."""

from __future__ import annotations

from typing import Any

from llmc import __version__
from llmc.serve.parameters import Parameter, request_schema

REFUSALS = {
    "400": "It asks for what there is not, or is no JSON.",
    "401": "The key is missing or wrong.",
    "403": "It comes from a page of another origin.",
    "404": "There is no such model.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is not called JSON.",
    "421": "It names another host.",
    "429": "The queue is full; Retry-After says when to come again.",
    "503": "The engine is dead, or the server is about to end.",
}
EVERYWHERE = ("401", "403", "421")


def document(known: dict[str, Parameter], model: str, *, with_key: bool) -> dict[str, Any]:
    """Return the document of a server that has a model and, perhaps, a key."""
    whole = _answer("The completions; as server-sent events where stream is true.", "Completion")
    whole["content"]["text/event-stream"] = {}
    security: list[dict[str, list[str]]] = [{"key": []}] if with_key else []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmc",
            "version": __version__,
            "description": "A model trained with llmc, as OpenAI's clients speak to it.",
        },
        "security": security,
        "paths": {
            "/v1/models": {
                "get": _operation("models", "List the model.", _answer("It.", "Models"))
            },
            "/v1/models/{model}": {
                "get": _operation("model", "Describe the model.", _answer("It.", "Model"), "404")
                | {
                    "parameters": [
                        {
                            "name": "model",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string"},
                            "example": model,
                        }
                    ]
                }
            },
            "/v1/completions": {
                "post": _operation(
                    "completions",
                    "Go on from a prompt.",
                    whole,
                    *("400", "404", "408", "413", "415", "429", "503"),
                )
                | {
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": request_schema(known)}},
                    }
                }
            },
            "/info": {"get": _operation("info", "Tell what is served.", _anything("Facts."))},
            "/curves": {
                "get": _operation("curves", "Tell the losses of its run.", _anything("Points."))
            },
            "/metrics": {
                "get": _operation(
                    "metrics",
                    "Count, for Prometheus.",
                    {
                        "description": "Numbers.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                )
            },
            "/health": {
                "get": _operation("health", "Say whether the engine lives.", _anything("It does."))
                | {"security": []}
            },
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(name: str, summary: str, answer: dict[str, Any], *refusals: str) -> dict[str, Any]:
    codes = sorted({*EVERYWHERE, *refusals, *(("503",) if name == "health" else ())})
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": answer, **{code: _answer(REFUSALS[code], "Error") for code in codes}},
    }


def _answer(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _anything(description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {"description": description, "content": content}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_COUNT, owned_by=_TEXT)
_LOGPROBS = _object(
    tokens={"type": "array", "items": _TEXT},
    token_logprobs={"type": "array", "items": _NUMBER},
    top_logprobs={
        "type": ["array", "null"],
        "items": {"type": "object", "additionalProperties": _NUMBER},
    },
    text_offset={"type": "array", "items": _COUNT},
)
_CHOICE = _object(
    index=_COUNT,
    text=_TEXT,
    logprobs={"anyOf": [_LOGPROBS, {"type": "null"}]},
    finish_reason={"enum": ["stop", "length"]},
)
SCHEMAS = {
    "Model": _MODEL,
    "Models": _object(object={"const": "list"}, data={"type": "array", "items": _MODEL}),
    "Completion": _object(
        id=_TEXT,
        object={"const": "text_completion"},
        created=_COUNT,
        model=_TEXT,
        choices={"type": "array", "items": _CHOICE},
        usage=_object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "Error": _object(
        error=_object(
            message=_TEXT,
            type=_TEXT,
            param={"type": ["string", "null"]},
            code={"type": ["string", "null"]},
        )
    ),
}
