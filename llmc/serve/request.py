"""A request for completions: the JSON that a client sent, read and checked."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from llmc.serve.parameters import SEEDS, Limits, Parameter
from llmc.serve.refusals import Refused, shown

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Completion:
    """A request, checked.

    Attributes:
        prompts: texts, or lists of ids.
        stops: what ends the text.
        seed: of the first choice; the others count on.
        logprobs: alternatives to tell per token; None: no log probabilities at all.
        usage: whether a stream ends with the usage.
        truncate: how many of a longer prompt's last tokens to keep; None: it is refused.
    """

    prompts: list[str | list[int]]
    max_tokens: int
    n: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    stops: list[str]
    logprobs: int | None
    echo: bool
    stream: bool
    usage: bool
    ignore_eos: bool
    truncate: int | None


def parse(body: bytes, known: dict[str, Parameter], limits: Limits) -> Completion:
    """Return what a request's body asks for.

    Raises:
        Refused: it is no JSON, or asks for what there is not.
    """
    asked = _object(body)
    for name in asked:
        if name not in known:
            raise Refused(
                400,
                f"Unrecognized request argument supplied: {shown(name)}",
                code="unknown_parameter",
                param=name if name.isprintable() else None,
            )
    values: dict[str, Any] = {
        name: parameter.check(name, asked.get(name, parameter.default))
        for name, parameter in known.items()
    }
    prompts = values["prompt"]
    if len(prompts) * values["n"] > limits.choices:
        raise Refused(
            400,
            f"{len(prompts)} prompts × n = {values['n']} are more completions than this server has "
            f"room for in one request: {limits.choices}",
            param="n",
        )
    if values["echo"] and values["logprobs"] is not None:
        raise Refused(
            400,
            "echo and logprobs exclude each other: a prompt's probabilities are not computed",
            code="unsupported_parameter",
            param="echo",
        )
    if asked.get("stream_options") is not None and not values["stream"]:
        raise Refused(400, "stream_options are for streams: set stream too", param="stream_options")
    seed = values["seed"]
    return Completion(
        prompts=prompts,
        max_tokens=values["max_tokens"],
        n=values["n"],
        temperature=values["temperature"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        min_p=values["min_p"],
        repetition_penalty=values["repetition_penalty"],
        seed=seed % SEEDS if seed is not None else secrets.randbelow(SEEDS),
        stops=values["stop"],
        logprobs=values["logprobs"],
        echo=values["echo"],
        stream=values["stream"],
        usage=values["stream_options"].get("include_usage", False),
        ignore_eos=values["ignore_eos"],
        truncate=values["truncate_prompt_tokens"],
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        text = json.dumps(asked, ensure_ascii=False)
    except UnicodeDecodeError as error:
        raise Refused(400, "The body is not UTF-8: send JSON") from error
    except json.JSONDecodeError as error:
        raise Refused(400, f"The body is not valid JSON: {shown(str(error))}") from error
    except RecursionError as error:
        raise Refused(400, "The body's JSON is nested too deeply") from error
    except ValueError as error:  # what Python refuses besides: digits by the thousand
        raise Refused(400, "The body has a number that is too long") from error
    if not isinstance(asked, dict):
        raise Refused(400, "The body must be a JSON object")
    if SURROGATE.search(text):
        raise Refused(400, "The body has half of a surrogate pair, which is no character")
    return asked


def _no_constant(name: str) -> Any:
    raise Refused(400, f"The body is not valid JSON: {name} is no number of it")
