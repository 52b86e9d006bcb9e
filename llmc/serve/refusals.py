"""Refused requests, in the shape of OpenAI's errors."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

INVALID, BUSY, BROKEN = "invalid_request_error", "rate_limit_error", "server_error"


class Refused(HTTPException):
    """A request that is answered with an error.

    Attributes:
        body: the error as OpenAI's clients expect it.
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
        """Refuse a request.

        Args:
            status: the HTTP status.
            message: what is wrong, in one sentence.
            kind: OpenAI's ``type``.
            code: a word for programs.
            param: the parameter at fault.
            headers: headers of the answer.
        """
        super().__init__(status, message, headers)
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body: dict[str, Any] = {"error": error}


def printable(text: str) -> str:
    """Return the beginning of a client's text without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:120])


def too_long(count: str, most: int) -> Refused:
    """Return the refusal of a prompt that does not fit the model's context.

    Args:
        count: its length in words.
        most: tokens that a prompt may have.
    """
    return Refused(
        400,
        f"This model's context is {most + 1} tokens and one of them is the answer's: a prompt may "
        f"have {most}, and this one has {count}",
        code="context_length_exceeded",
        param="prompt",
    )
