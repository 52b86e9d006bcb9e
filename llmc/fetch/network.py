"""The offline switch, and when a failed request is retried."""

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
    """How often and after which waits a failed request is retried.

    Attributes:
        retries: the retries in a row without a byte in between.
        unreached: the same for a server that has not answered at all (often there is no network).
        first_s: the first wait in seconds; each wait is twice the one before.
        longest_s: the longest wait, except where the server asks for a longer one.
        total_s: the limit of all waits together.
        sleep: the function that waits.
    """

    retries: int = 5
    unreached: int = 2
    first_s: float = 1.0
    longest_s: float = 30.0
    total_s: float = 600.0
    sleep: Callable[[float], None] = time.sleep

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


class Passing(Exception):
    """A failure that a retry may overcome."""

    def __init__(
        self, what: str, final: BadData, *, wait_s: float | None = None, reached: bool = True
    ) -> None:
        """Describe it.

        Args:
            what: what happened, for the note about the retry.
            final: the error to raise after the last retry.
            wait_s: how long the server asks to wait.
            reached: whether the server answered at all.
        """
        super().__init__(what)
        self.what = what
        self.final = final
        self.wait_s = wait_s
        self.reached = reached


def persistently(attempt: Callable[[], T], *, report: Report, progress: Callable[[], int]) -> T:
    """Call ``attempt``, and after each :class:`Passing` failure wait and call it again.

    Args:
        attempt: what may fail.
        report: gets a note before every wait.
        progress: returns the bytes that have arrived; if they grow, the failures are counted anew.

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
            report.note(f"{failure.what}: trying again in {wait:.0f} s ({failures} of {allowed})")
            limits.sleep(wait)
            waited += wait
