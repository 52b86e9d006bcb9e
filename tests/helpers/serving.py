"""Clients of llmc serve."""

from __future__ import annotations

from typing import Any

import httpx2

KEY = "sixteen-or-more-characters"


def error(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Hold a refusal to OpenAI's shape and return it."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]  # type: ignore[no-any-return]
