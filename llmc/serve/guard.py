"""Which requests are answered: from this machine, or with the key; and how large they may be."""

from __future__ import annotations

import asyncio
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from llmc.errors import Usage
from llmc.serve.refusals import BUSY, Refused

KEY_VARIABLE = "LLMC_API_KEY"
SHORTEST_KEY = 16
MOST_BODY_BYTES = 1 << 20
BODY_SECONDS = 20.0
CLOSE = {"Connection": "close"}
ANY_ORIGIN = "*"
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
# Paths that need no key.
OPEN = ("/", "/health", "/openapi.json")


@dataclass(frozen=True)
class Guard:
    """The rules of one server."""

    host: str  # the name or address the server listens on
    key: str | None  # the key required in ``Authorization: Bearer``; None: no key
    origins: tuple[str, ...] = ()  # whose pages may use the server; :data:`ANY_ORIGIN` for all

    def check(self, path: str, headers: Headers) -> None:
        """Check a request by its path and headers.

        Without a key the server listens on this machine only, but a web page in a browser here
        could still reach it: by a name of its own that resolves here (DNS rebinding; checked by
        Host) or from another origin (checked by Origin). With a key neither can.

        Raises:
            Refused: the request is not allowed.
        """
        if self.key is None:
            name = _host_name(headers.get("host", ""))
            if not (is_loopback(name) or name == self.host.lower()):
                raise Refused(
                    421,
                    "This server answers only to names of this machine, such as localhost",
                    code="wrong_host",
                )
            origin = headers.get("origin")
            if origin is not None and not self._is_allowed(origin, headers["host"]):
                raise Refused(
                    403,
                    "Pages of other origins may not use this server, except those that it was "
                    "started with (--cors)",
                    code="wrong_origin",
                )
        elif path not in OPEN and not self._is_key(headers.get("authorization", "")):
            raise Refused(
                401,
                f"Send the server's key ({KEY_VARIABLE}) as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _is_allowed(self, origin: str, host: str) -> bool:
        is_own = origin.partition("://")[2].lower() == host.lower()
        return is_own or ANY_ORIGIN in self.origins or origin in self.origins

    def _is_key(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        sent, expected = key.strip().encode(errors="surrogateescape"), (self.key or "").encode()
        # In constant time, which reveals nothing of the key.
        return scheme.lower() == "bearer" and hmac.compare_digest(sent, expected)


def guard_for(host: str, origins: Sequence[str] = ()) -> Guard:
    """Return the rules for an address to listen on, with the key from the environment.

    Pages of the ``origins`` may use the server too.

    Raises:
        Usage: other machines could connect and there is no key, the key is not usable, or an
            origin is none.
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
    for origin in origins:
        if origin != ANY_ORIGIN and not ORIGIN.fullmatch(origin):
            raise Usage(
                f"--cors takes an origin as browsers send it, such as https://example.org or "
                f"http://localhost:3000, in lower case and without a path, or *; not '{origin}'"
            )
    return Guard(host, key, tuple(origins))


def is_loopback(host: str) -> bool:
    """Return whether a name or address is reachable only from this machine."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port or brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(:\d*)?", host)
    return match[1].strip("[]").lower() if match else ""


def limited(receive: Receive, headers: Headers) -> Receive:
    """Return ``receive`` with limits on a request's body: JSON, of limited size and duration.

    The function it returns raises :class:`Refused` as soon as a limit is exceeded.
    """
    deadline: float | None = None
    size, complete = 0, False

    async def receive_limited() -> Message:
        nonlocal deadline, size, complete
        if complete:
            return await receive()
        if deadline is None:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                # A browser asks before it sends this from a page of another origin, and gets no
                # permission.
                raise Refused(415, "Send the request as 'Content-Type: application/json'")
            announced = headers.get("content-length", "")
            _check_size(int(announced) if announced.isdecimal() else 0)
            deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise Refused(
                408,
                f"The body did not arrive within {BODY_SECONDS:g} seconds",
                kind=BUSY,
                headers=CLOSE,
            ) from error
        size += len(message.get("body", b""))
        _check_size(size)
        complete = not message.get("more_body", False)
        return message

    return receive_limited


def _check_size(size: int) -> None:
    if size > MOST_BODY_BYTES:
        message = f"The body is larger than {MOST_BODY_BYTES} bytes"
        raise Refused(413, message, code="body_too_large", headers=CLOSE)
