"""A file to download: its address, and what is known about it beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from llmc.errors import BadData
from llmc.fetch.cache import Pin
from llmc.fetch.network import Passing


def is_url(text: str) -> bool:
    """Tell an HTTP address from a path."""
    return text.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Remote:
    """A file to download, and what is known about it beforehand.

    Attributes:
        url: its address.
        name: what it is called in messages.
        hint: the end of error messages: what to do instead.
        pin: the hash it must have.
        size: the bytes it must have.
        headers: sent to the host of ``url``; a token goes to no other host after a redirect.
    """

    url: str
    name: str
    hint: str
    pin: Pin | None = None
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            BadData: it is not an HTTP address.
        """
        try:
            parts = urlsplit(self.url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadData(f"'{self.url}' is not an HTTP address: {self.hint}")

    @property
    def shown(self) -> str:
        """The address without password, query and fragment: they may hold secrets."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def host(self) -> str:
        """The host, and the port where it is not the usual one."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def fingerprint(self) -> str:
        """A hash of the address: it identifies the address without revealing it."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    @property
    def key(self) -> str:
        """The file's key in the cache."""
        return self.pin.key if self.pin is not None else f"url-{self.fingerprint}"


def unreachable(shown: str, host: str, hint: str, error: Exception) -> Passing:
    """Return the failure of a server that does not answer."""
    kind = type(error).__name__
    final = BadData(
        f"cannot download {shown}: no answer from {host} ({kind}); {hint}, or try again with a "
        "network"
    )
    return Passing(f"no answer from {host} ({kind})", final, reached=False)
