"""The network: a file's address, the offline switch, and when a failed request is retried."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlsplit

from llmc.addresses import without_secrets
from llmc.errors import BadData, Usage
from llmc.fetch.cache import Pin
from llmc.report import Report

T = TypeVar("T")

OFFLINE_VARIABLES = ("LLMC_OFFLINE", "HF_HUB_OFFLINE")
TRUE = ("1", "true", "yes", "on")
# Statuses that are worth a retry; a server repeats any other refusal.
PASSING = (408, 425, 429, 500, 502, 503, 504)
NEEDS_TOKEN = (401, 403)


def is_offline() -> bool:
    """Tell whether ``--offline``, ``LLMC_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    return any(os.environ.get(name, "").lower() in TRUE for name in OFFLINE_VARIABLES)


def is_url(text: str) -> bool:
    """Tell an HTTP address from a path."""
    return text.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Remote:
    """A file to download, and what is known about it beforehand."""

    url: str  # its HTTP address; BadData is raised for any other
    name: str  # what it is called in messages
    hint: str  # the end of error messages: what to do instead
    pin: Pin | None = None  # the hash it must have
    size: int | None = None  # the bytes it must have
    # Sent to the host of ``url``; a token goes to no other host after a redirect.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            is_good = is_url(self.url) and bool(urlsplit(self.url).hostname)
        except ValueError:
            is_good = False
        if not is_good:
            raise BadData(f"'{self.url}' is not an HTTP address: {self.hint}")

    @property
    def host(self) -> str:
        """The host, and the port where it is not the usual one."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def shown(self) -> str:
        """The address without password, query and fragment: they may hold secrets."""
        return without_secrets(self.url)

    @property
    def fingerprint(self) -> str:
        """A hash of the address: it identifies the address without revealing it."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    @property
    def key(self) -> str:
        """The file's key in the cache."""
        return self.pin.key if self.pin is not None else f"url-{self.fingerprint}"


class Passing(Exception):
    """A failure that a retry may overcome; its text is for the note about the retry.

    Attributes:
        final: the error to raise after the last retry.
        wait_s: how long the server asks to wait, in seconds.
        reached: whether the server answered at all.
    """

    def __init__(
        self, what: str, final: BadData, *, wait_s: float | None = None, reached: bool = True
    ) -> None:
        super().__init__(what)
        self.final = final
        self.wait_s = wait_s
        self.reached = reached


def unreachable(remote: Remote, error: Exception) -> Passing:
    """Return the failure of a server that does not answer."""
    silence = f"no answer from {remote.host} ({type(error).__name__})"
    final = f"cannot download {remote.shown}: {silence}; {remote.hint}, or try again with a network"
    return Passing(silence, BadData(final), reached=False)


def refused(
    remote: Remote, status: int, reason: str, retry_after: str | None, kept: str
) -> Passing | BadData:
    """Return the failure of a request that a server refused; ``kept`` tells how much is kept."""
    hint = remote.hint
    if status in NEEDS_TOKEN and remote.headers:
        hint = f"where it needs an account, set HF_TOKEN to a token that may read it; or {hint}"
    answer = f"answered {status} {reason}".rstrip()
    wait_s = _seconds(retry_after) if status in PASSING else None
    if wait_s is not None:
        answer += f" and asks to wait {wait_s:.0f} s"
    final = BadData(f"{remote.shown} {answer}; {kept}: {hint}")
    if status not in PASSING:
        return final
    return Passing(f"{remote.host} {answer}", final, wait_s=wait_s)


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After header names, by number or by date."""
    import urllib3

    try:
        return urllib3.Retry().parse_retry_after(retry_after) if retry_after else None
    except urllib3.exceptions.InvalidHeader:
        return None


@dataclass(frozen=True)
class Patience:
    """How often and after which waits a failed request is retried."""

    retries: int = 5  # the retries in a row without a byte in between
    # The same for a server that has not answered at all (often there is no network).
    unreached: int = 2
    first_s: float = 1.0  # the first wait in seconds; each wait is twice the one before
    longest_s: float = 30.0  # the longest wait, except where the server asks for a longer one
    total_s: float = 600.0  # the limit of all waits together
    sleep: Callable[[float], None] = time.sleep  # the function that waits

    def wait_s(self, failures: int) -> float:
        """Return the wait after ``failures`` failures; random, to spread the clients' retries."""
        return min(self.longest_s, self.first_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


PATIENCE = Patience()


def patience() -> Patience:
    """Return the limits in force; ``LLMC_RETRIES`` sets the number of retries, 0 for none.

    Raises:
        Usage: it is not a number.
    """
    retries = os.environ.get("LLMC_RETRIES", "")
    if not retries:
        return PATIENCE
    if not retries.isdecimal():
        raise Usage(f"LLMC_RETRIES is '{retries}': it counts retries, such as 5, or 0 for none")
    return replace(PATIENCE, retries=int(retries))


def persistently(attempt: Callable[[], T], *, report: Report, progress: Callable[[], int]) -> T:
    """Call ``attempt``, and after each :class:`Passing` failure wait and call it again.

    ``progress`` returns the bytes that have arrived; if they grow, the failures are counted anew.

    Raises:
        BadData: it failed too often, or the waits would take too long.
    """
    limits = patience()
    failures, waited, had = 0, 0.0, progress()
    while True:
        try:
            return attempt()
        except Passing as failure:
            has = progress()
            failures = 1 if has > had else failures + 1
            had = has
            allowed = limits.retries if failure.reached else min(limits.retries, limits.unreached)
            wait = limits.wait_s(failures) if failure.wait_s is None else failure.wait_s
            if failures > allowed or waited + wait > limits.total_s:
                raise failure.final from failure
            report.note(f"{failure}: trying again in {wait:.0f} s ({failures} of {allowed})")
            limits.sleep(wait)
            waited += wait
