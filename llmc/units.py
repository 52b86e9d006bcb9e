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
