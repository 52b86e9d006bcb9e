"""Quantities as a person reads them."""

from __future__ import annotations


def megabytes(count: float) -> str:
    """Return bytes as ``61.5 MB`` or ``2.21 GB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def clock(seconds: float) -> str:
    """Return a duration as ``mm:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def milliseconds(count: float) -> str:
    """Return milliseconds as ``1507 ms``, ``36.2 ms``, ``1.18 ms`` or ``0.093 ms``."""
    return f"{count:.{0 if count >= 100 else 1 if count >= 10 else 2 if count >= 1 else 3}f} ms"


def short(count: float | None) -> str:
    """Return a count as ``950``, ``16.5k``, ``1.23M``, ``124M`` or ``1.56B``; a dash for None."""
    if count is None:
        return "–"
    for limit, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit * 0.9995:
            scaled = count / limit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{sign}"
    return f"{count:.0f}"
