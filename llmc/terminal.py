"""Text from elsewhere, made safe to print."""

from __future__ import annotations


def printable(text: str, *, keep: str = "", instead: str = "?") -> str:
    """Return ``text`` without characters that could act on a terminal.

    Args:
        text: from a file, a model or a request.
        keep: unprintable characters that are left as they are, for example a newline.
        instead: what replaces every other unprintable character.
    """
    return "".join(c if c.isprintable() or c in keep else instead for c in text)
