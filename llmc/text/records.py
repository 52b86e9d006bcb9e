"""Documents from records: JSON Lines and JSON, a chunk at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmc.errors import BadData
from llmc.text.documents import LINE, cut
from llmc.text.json_stream import JsonStream, json_reason


def jsonl_documents(
    chunks: Iterable[bytes], field: str, name: str, lines_before: Callable[[], int] = int
) -> Iterator[str]:
    """Yield the documents of JSON Lines: a string, or an object with its text in ``field``.

    Args:
        chunks: the lines, split anywhere.
        field: the field of an object that holds its text.
        name: how messages call the file.
        lines_before: counts the lines of the file before these; called for messages only.

    Raises:
        BadData: a line is not JSON or lacks the field.
    """
    for number, line in enumerate(cut(chunks, LINE, name), 1):
        if not line.strip():
            continue
        try:
            # Windows programs begin a file with a byte order mark.
            value = json.loads(line.removeprefix("\ufeff") if number == 1 else line)
        except (ValueError, RecursionError) as error:
            where = f"{name}, line {number + lines_before():,}"
            raise BadData(
                f"{where}: not JSON ({_reason(error)}); mend it or leave it out"
            ) from error
        try:
            text = text_of(value, field)
        except ValueError as error:
            raise BadData(f"{name}, line {number + lines_before():,}: {error}") from error
        if text:
            yield whole_characters(text)


def json_documents(chunks: Iterable[bytes], field: str, name: str) -> Iterator[str]:
    """Yield the documents of JSON: a list of strings or objects, or a sequence of them.

    Raises:
        BadData: it is not JSON, or an object lacks the field.
    """
    for number, value in enumerate(JsonStream(chunks, name).values(), 1):
        try:
            text = text_of(value, field)
        except ValueError as error:
            raise BadData(f"{name}, record {number:,}: {error}") from error
        if text:
            yield whole_characters(text)


def text_of(record: Any, field: str) -> str:
    """Return the text of a record: a string, or an object's ``field``; empty for null.

    Raises:
        ValueError: there is none; the message lists the fields.
    """
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise ValueError(f"a record must be an object or a string, not {_shown(record)}")
    if field not in record:
        there = ", ".join(f"'{key}'" for key in record) or "none"
        raise ValueError(f"no field '{field}': name one with --field (there: {there})")
    value = record[field]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"the field '{field}' is {_shown(value)}, not text: name another --field")
    return value


def whole_characters(text: str) -> str:
    r"""Return ``text`` with half characters (JSON's ``"\ud800"``) replaced, as tiktoken does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return json_reason(error)
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _shown(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")
