"""Format and parse quantities: bytes, times, counts."""

from __future__ import annotations

import math
import re
from decimal import Decimal


def megabytes(count: float) -> str:
    """Return bytes as ``61.5 MB`` or ``2.21 GB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def plus_minus(value: float, error: float | None, digits: int = 4) -> str:
    """Return a value with its standard error, where that is known: ``4.1234 ± 0.0210``."""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")


def finite(number: float | None) -> float | None:
    """Return a number that JSON can hold; None for a NaN or an infinity."""
    return number if number is not None and math.isfinite(number) else None


def clock(seconds: float) -> str:
    """Return a duration as ``mm:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def duration(seconds: float) -> str:
    """Return how long something took: ``0.3 s`` and, from ten seconds on, as :func:`clock`."""
    return f"{seconds:.1f} s" if seconds < 9.95 else clock(seconds)


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


UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


def seconds_of(text: str) -> float:
    """Return the seconds in a time such as ``2h``, ``1h30m``, ``90m``, ``45s`` or ``0``.

    Each unit occurs at most once, the largest first; a number without a unit is in seconds.

    Raises:
        ValueError: it is no such time.
    """
    number = r"(\d+(?:\.\d+)?)"
    if re.fullmatch(number, text):
        return float(text)
    found = re.fullmatch("".join(f"(?:{number}{unit})?" for unit in UNITS), text)
    if not text or found is None:
        raise ValueError(f"'{text}' is not a time: write it as 2h, 1h30m, 90m or 45s")
    parts = zip(found.groups(), UNITS.values(), strict=True)
    return sum(float(part) * seconds for part, seconds in parts if part is not None)


def typed_time(seconds: float) -> str:
    """Return a time as it is typed: ``1h30m``, ``45s``."""
    text, left = "", round(seconds)
    for unit, each in UNITS.items():
        number, left = divmod(left, each)
        text += f"{number}{unit}" if number else ""
    return text or f"{seconds:g}s"


def count_of(text: str) -> int:
    """Return a whole number as people type it: ``250000``, ``65k``, ``1e6``, ``1.5B``, ``4G``.

    Raises:
        ValueError: it is no such number.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]\+?\d{1,2})?)([kKMBG]?)", text.replace("_", ""))
    number = Decimal(found[1]) * COUNTS[found[2]] if found is not None else Decimal("NaN")
    if number.is_nan() or number >= 2**63 or number % 1:
        raise ValueError(f"'{text}' is not a whole number: write it as 250000, 1e6 or 10M")
    return int(number)


def number_of(text: str) -> float:
    """Return a number as people type it: ``0.1``, ``3e-4``, ``65k``, ``10M``.

    Raises:
        ValueError: it is no such number.
    """
    scale = COUNTS.get(text[-1:]) if text[-1:].isalpha() else 1
    try:
        return float(text if scale == 1 else text[:-1]) * (scale or math.nan)
    except ValueError:
        raise ValueError(f"'{text}' is not a number: write it as 0.1, 3e-4 or 10M") from None
