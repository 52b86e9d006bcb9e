"""Whatever the published document allows is answered, and whatever it forbids is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.helpers.examples import examples
from tests.helpers.served import Served, fake_server

KEY = "sixteen-or-more-characters"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with fake_server(
        folder, "--max-tokens", "32", "--queue", "126", env={"LLMC_API_KEY": KEY}
    ) as running:
        yield running
        assert running.get("/health").json() == {"status": "ok"}
        ended, said = running.end()
        assert (ended, said) == (0, "")


@pytest.fixture(scope="module")
def document(server: Served) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}openapi.json")


@pytest.fixture(scope="module")
def chat_document(folder: Path) -> Iterator[Any]:
    flags = ["--chat", "chatml", "--positions", "1000000", "--max-tokens", "32", "--queue", "126"]
    with fake_server(folder, *flags, env={"LLMC_API_KEY": KEY}) as running:
        yield schemathesis.openapi.from_url(f"{running.url}openapi.json")
        assert running.end() == (0, "")


OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/completions"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/info"),
    ("GET", "/curves"),
]


def test_every_operation_is_tried(document: Any) -> None:
    found = [result.ok() for result in document.get_all_operations()]
    assert {(each.method.upper(), each.path) for each in found} == set(OPERATIONS)


def fits(case: schemathesis.Case[Any]) -> bool:
    """Say whether a request is one that is answered: no schema can multiply or compare numbers."""
    body = case.body if isinstance(case.body, dict) else {}
    prompt, n, best = body.get("prompt", ""), body.get("n"), body.get("best_of")
    if isinstance(best, int | float):
        if best < (n if isinstance(n, int | float) else 1) or body.get("stream"):
            return False
        n = best
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        return False
    bias = body.get("logit_bias")
    if isinstance(bias, dict) and any(each.isdecimal() and int(each) > 256 for each in bias):
        return False
    texts = prompt if isinstance(prompt, list) else [prompt]
    long = any(isinstance(text, str) and len(text.encode()) > 63 for text in texts)
    return not long and not (isinstance(n, int | float) and n * len(texts) > 128)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
    + [("POST", "/v1/completions", GenerationMode.NEGATIVE)],
)
def test_the_document_is_kept(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    """What it allows, and what it does not."""
    hold(document[path][method], mode)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_document_of_chat_is_kept(chat_document: Any, mode: GenerationMode) -> None:
    hold(chat_document["/v1/chat/completions"]["POST"], mode)


def hold(operation: Any, mode: GenerationMode) -> None:
    @settings(max_examples=examples(80), derandomize=True, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode).filter(fits))
    def answered(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"})

    answered()
