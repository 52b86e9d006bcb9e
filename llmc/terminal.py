"""Text from elsewhere, made safe to print."""

from __future__ import annotations


def printable(text: str, *, keep: str = "", instead: str = "?") -> str:
    """Return ``text`` without characters that could act on a terminal.

    Unprintable characters in ``keep`` stay; every other one becomes ``instead``.
    """
    return "".join(c if c.isprintable() or c in keep else instead for c in text)
