"""Why a request is refused, in the shape of OpenAI's errors."""

from __future__ import annotations

from typing import Any

INVALID, BUSY, BROKEN = "invalid_request_error", "rate_limit_error", "server_error"


class Refused(Exception):
    """A request that is not answered as it wished.

    Attributes:
        status: the HTTP status.
        message: what is wrong, one sentence.
        kind: OpenAI's ``type``.
        code: a word for programs, if there is one.
        param: which parameter is at fault, if it is one.
        headers: sent with the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Say why."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON's objects."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def shown(text: str) -> str:
    """Return the beginning of what a client sent, fit to be printed."""
    return "".join(c if c.isprintable() else "?" for c in text[:120])
