"""JSON and TOML, parsed in one place: whatever a file holds, it is parsed or refused.

The standard library's parsers raise RecursionError for deep nesting, take minutes for some long
keys, and use many times the memory of the text. Here all of that is a :class:`Unparsable`.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

LARGEST_TEXT = 1 << 26  # bytes of a file that is parsed as one: JSON, a tokenizer
LARGEST_TOML = 1 << 20  # bytes; a preset has a few hundred
# Commas and brackets in a JSON text; each stands for at most about 200 bytes of memory.
MOST_VALUES = 1 << 22
MOST_DEPTH = 100  # of lists and tables in each other: what writes them again is recursive too
MOST_DOTS = 100  # in a line of TOML: the parser's time grows with the square of a key's parts
MOST_DIGITS = 20  # 64 bits, with a sign
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_PAIR = re.compile(rb"\[\]|\{\}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class Unparsable(ValueError):
    """A text that is not JSON or TOML, or too large or too deep for it."""


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise Unparsable(f"a number has {len(digits):,} digits")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_whole)
_OF_RECORDS = json.JSONDecoder()


def _is_deep(text: str) -> bool:
    """Tell whether brackets are in each other more than ``MOST_DEPTH`` times."""
    left = _STRING.sub(b"", text.encode(errors="replace")).translate(None, _NO_BRACKETS)
    for _ in range(MOST_DEPTH):
        inner = _PAIR.sub(b"", left)
        if len(inner) == len(left):
            return False  # or it is not JSON
        left = inner
    return bool(left)


def from_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON; json.JSONDecodeError says where.
        Unparsable: it is nested too deep, or a number or a string is none that llmc can use.
    """
    shown = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
    if shown.count("[") + shown.count("{") > MOST_DEPTH and _is_deep(shown):
        raise Unparsable("nested too deep")
    try:
        value = _DECODER.decode(shown)
    except RecursionError as error:
        raise Unparsable("nested too deep") from error
    if "\\u" in shown and _HALF.search(shown):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Unparsable("a text has half a character") from error
    return value


def record_from_json(text: str, at: int | None = None) -> tuple[Any, int]:
    """Return the JSON value in a person's text, and the place after it.

    It is the whole text, or begins ``at`` a place. Its strings may hold unpaired surrogates, and
    its numbers may be of any size.

    Raises:
        ValueError: it is not JSON; json.JSONDecodeError says where.
        Unparsable: it is nested too deep, or a number has more digits than Python reads.
    """
    try:
        return _OF_RECORDS.raw_decode(text, at) if at is not None else (_OF_RECORDS.decode(text), 0)
    except RecursionError as error:
        raise Unparsable("nested too deep") from error


def read_limited(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """Return the bytes of a file that is read as one.

    Raises:
        OSError: it cannot be read.
        Unparsable: it has more than ``most``.
    """
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise Unparsable(f"it has more than {most:,} bytes")
    return raw


def from_json_file(raw: bytes) -> Any:
    """Return the value of the JSON text that is all of a file.

    Raises:
        ValueError: as for :func:`from_json`; or it has too many values.
    """
    if (count := sum(map(raw.count, (b",", b"[", b"{")))) > MOST_VALUES:
        raise Unparsable(f"it has some {count:,} values, more than {MOST_VALUES:,}")
    return from_json(raw)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: as for :func:`from_json_file`; or it has more than ``LARGEST_TEXT`` bytes.
    """
    return from_json_file(read_limited(path))


def object_in(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is no such file or it is broken."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        OSError: it cannot be read.
        Unparsable: it is nested too deep, too large, or has a number of too many digits.
        ValueError: it is not TOML or not UTF-8.
    """
    text = read_limited(path, LARGEST_TOML).decode("utf-8-sig")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if any(line.count(".") > MOST_DOTS for line in text.split("\n")):
        raise Unparsable("a line has too many dots")
    try:
        tables = tomllib.loads(text)
        _check_numbers(tables)
    except RecursionError as error:
        raise Unparsable("nested too deep") from error
    except (tomllib.TOMLDecodeError, UnicodeError):
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise Unparsable(str(error)) from error
    return tables


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_numbers(each)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:  # those of base 16 have no limit
        raise Unparsable(f"a number has {value.bit_length():,} bits")
