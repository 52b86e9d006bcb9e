"""When the network is used, and how often again: the offline switch, and patience with servers."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from llmc.errors import BadData, Usage
from llmc.report import Report

T = TypeVar("T")

OFFLINE_VARIABLES = ("LLMC_OFFLINE", "HF_HUB_OFFLINE")
TRUE = ("1", "true", "yes", "on")


def is_offline() -> bool:
    """Tell whether ``--offline``, ``LLMC_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    return any(os.environ.get(name, "").lower() in TRUE for name in OFFLINE_VARIABLES)


@dataclass(frozen=True)
class Patience:
    """How often a request that failed is made again, and how long is waited before.

    Attributes:
        retries: in a row, with no byte arriving in between.
        unreached: the same for a server that has not answered at all: mostly there is no network.
        first_s: the first wait, in seconds; each is twice the one before.
        longest_s: no wait is longer, but those that the server asks for.
        total_s: all waits together, those included.
        sleep: waits.
    """

    retries: int = 5
    unreached: int = 2
    first_s: float = 1.0
    longest_s: float = 30.0
    total_s: float = 600.0
    sleep: Callable[[float], None] = time.sleep

    def wait_s(self, failures: int) -> float:
        """Return the wait after so many failures; random, lest all clients come back at once."""
        return min(self.longest_s, self.first_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


PATIENCE = Patience()


def patience() -> Patience:
    """Return the patience in force: ``LLMC_RETRIES`` sets the number of retries, 0 means none.

    Raises:
        Usage: it is not a number.
    """
    retries = os.environ.get("LLMC_RETRIES", "")
    if not retries:
        return PATIENCE
    if not retries.isdecimal():
        raise Usage(f"LLMC_RETRIES is '{retries}': it counts retries, such as 5, or 0 for none")
    return replace(PATIENCE, retries=int(retries))


class Passing(Exception):
    """A failure that may pass by itself."""

    def __init__(
        self, what: str, final: BadData, *, wait_s: float | None = None, reached: bool = True
    ) -> None:
        """Describe it.

        Args:
            what: for the note that it is tried again.
            final: to raise when patience ends.
            wait_s: how long the server asks to wait.
            reached: whether the server answered at all.
        """
        super().__init__(what)
        self.what = what
        self.final = final
        self.wait_s = wait_s
        self.reached = reached


def persistently(attempt: Callable[[], T], *, report: Report, progress: Callable[[], int]) -> T:
    """Call ``attempt`` until it returns; after a :class:`Passing` failure, wait and call it again.

    Args:
        attempt: what may fail.
        report: is told of every wait.
        progress: bytes that are there; when they have grown, the count of failures starts anew.

    Raises:
        BadData: it failed too often, or the waits would be too long.
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
            report.note(f"{failure.what}: trying again in {wait:.0f} s ({failures} of {allowed})")
            limits.sleep(wait)
            waited += wait
