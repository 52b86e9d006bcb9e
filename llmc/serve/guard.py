"""Who may ask: this machine's own programs, or whoever has the key; and how much they may send."""

from __future__ import annotations

import asyncio
import hmac
import os
import re
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from llmc.errors import Usage
from llmc.serve.refusals import BUSY, Refused

KEY_VARIABLE = "LLMC_API_KEY"
SHORTEST_KEY = 16
MOST_BODY_BYTES = 1 << 20
BODY_SECONDS = 20.0
# What may be had without the key: it tells nothing of what the server writes.
OPEN = ("/", "/health", "/openapi.json")


@dataclass(frozen=True)
class Guard:
    """The rules of one server.

    Attributes:
        host: the name or address it listens on.
        key: what ``Authorization: Bearer`` must bring; None: nothing.
    """

    host: str
    key: str | None

    def check(self, path: str, headers: Headers) -> None:
        """Let a request pass by its head alone.

        Without a key, whoever can reach this machine's own address may ask, and a web page that a
        browser here has open can: by a name of its own that leads here (Host tells), or from
        another origin (Origin tells). With one, no page knows it.

        Raises:
            Refused: it may not pass.
        """
        if self.key is None:
            name = host_name(headers.get("host", ""))
            if not (is_loopback(name) or name == self.host.lower()):
                raise Refused(
                    421,
                    "This server answers only by the name of this machine, such as localhost",
                    code="wrong_host",
                )
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2].lower() != headers["host"].lower():
                raise Refused(
                    403, "Pages of other origins may not use this server", code="wrong_origin"
                )
        elif path not in OPEN and not self._is_key(headers.get("authorization", "")):
            raise Refused(
                401,
                f"Send the server's key ({KEY_VARIABLE}) as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _is_key(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        expected = (self.key or "").encode()
        # In a time that does not tell how much of it was right.
        return scheme.lower() == "bearer" and hmac.compare_digest(
            key.strip().encode(errors="surrogateescape"), expected
        )


def guard_for(host: str) -> Guard:
    """Return the rules for an address to listen on; the key is in the environment.

    Raises:
        Usage: other machines could reach it and there is no key, or the key is none.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is None and not is_loopback(host):
        raise Usage(
            f"--host {host} lets other machines in: set {KEY_VARIABLE} to a key that they must "
            f"send ({SHORTEST_KEY} characters or more), or leave out --host"
        )
    if key is not None and (len(key) < SHORTEST_KEY or not re.fullmatch(r"[!-~]+", key)):
        raise Usage(
            f"{KEY_VARIABLE} must be {SHORTEST_KEY} or more printable ASCII characters, no spaces; "
            "such as what 'openssl rand -hex 16' prints"
        )
    return Guard(host, key)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address, going by the name."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(:\d*)?", host)
    return match[1].strip("[]").lower() if match else ""


async def read_body(request: Request) -> bytes:
    """Return a request's body, which must be JSON.

    Raises:
        Refused: it is called something else, is too large, or comes too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another origin cannot send this without asking first, and is not answered.
        raise Refused(415, "Send the request as 'Content-Type: application/json'")
    body = bytearray()
    announced = request.headers.get("content-length", "")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if announced.isdecimal() and int(announced) > MOST_BODY_BYTES:
                raise _too_large()
            async for piece in request.stream():
                body += piece
                if len(body) > MOST_BODY_BYTES:
                    raise _too_large()
    except ClientDisconnect as error:
        raise Refused(400, "The body broke off") from error
    except TimeoutError as error:
        raise Refused(
            408,
            f"The body did not come within {BODY_SECONDS:g} seconds",
            kind=BUSY,
            headers={"Connection": "close"},
        ) from error
    return bytes(body)


def _too_large() -> Refused:
    return Refused(
        413,
        f"The body is larger than {MOST_BODY_BYTES} bytes",
        code="body_too_large",
        headers={"Connection": "close"},
    )
