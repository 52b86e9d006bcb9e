"""Refused requests, in the shape of OpenAI's errors."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from llmc import terminal

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
        """Refuse a request, because of ``message``.

        OpenAI's clients call ``kind`` the type; ``code`` is a word for programs, ``param`` the
        parameter at fault.
        """
        super().__init__(status, message, headers)
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body: dict[str, Any] = {"error": error}

    def response(self) -> JSONResponse:
        """Return the answer to the request."""
        return JSONResponse(self.body, self.status_code, self.headers)


def printable(text: str) -> str:
    """Return the beginning of a client's text without control characters."""
    return terminal.printable(text[:120])
