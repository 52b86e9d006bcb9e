"""The text of a record: a string, or what is in one of its fields, however deep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmc.errors import BadData

DEFAULT_FIELD = "text"  # of a record, where no option names another
# The usual fields of a conversation, which is read where no option names a field, as messages say.
OF_CONVERSATION = "'messages', 'prompt' and 'completion', or 'instruction' and 'output'"
# Where the text of an object in a list is: of a chat's turn, in the usual forms.
TURN = ("content", "value", "text")
MOST_SHOWN = 20  # fields in a message

_ABSENT = object()


class NoText(ValueError):
    """A record without text in the wanted field."""


class NoField(BadData):
    """A file whose records or columns do not have the wanted field."""


def text_of(record: Any, fields: Sequence[str]) -> str:
    """Return the text of a record: a string, or the first of an object's ``fields`` that has one.

    Without ``fields`` it is in ``text``. A field is a key, or a path: ``a.b`` is in an object,
    ``a[].b`` in the objects of a list. The texts of a list are joined by newlines; of an object in
    a list, such as a chat's turn, the text is in ``content``, ``value`` or ``text``. Null is no
    text; the result is then empty.

    Raises:
        NoText: there is none; the message lists the fields.
    """
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise NoText(f"a record must be an object or a string, not {_shown(record)}")
    fault = ""
    is_there = False
    for field in fields or (DEFAULT_FIELD,):
        value = _found(record, field)
        if value is _ABSENT:
            continue
        is_there = True
        try:
            text = _text(value)
        except NoText as error:
            fault = fault or f"the field '{field}' is {error}: name another --field"
            continue
        if text:
            return text
    if fault:
        raise NoText(f"{fault} (there: {listed(paths_of(record))})")
    if not is_there:
        raise NoText(missing(fields, paths_of(record)))
    return ""


def missing(fields: Sequence[str], there: Sequence[str], what: str = "field") -> str:
    """Return what to say where none of ``fields``, or of the usual ones, is there."""
    wanted = " or ".join(f"'{field}'" for field in fields)
    if not fields:
        wanted = f"'{DEFAULT_FIELD}', and none of a conversation ({OF_CONVERSATION})"
    return f"no {what} {wanted}: name one with --field (there: {listed(there)})"


def listed(paths: Sequence[str]) -> str:
    """Return fields as a message lists them."""
    more = len(paths) - MOST_SHOWN
    shown = ", ".join(f"'{path}'" for path in paths[:MOST_SHOWN])
    return (f"{shown} and {more} more" if more > 0 else shown) or "none"


def paths_of(record: dict[str, Any], before: str = "") -> list[str]:
    """Return the fields of an object, those of objects in it as paths."""
    paths = []
    for key, value in record.items():
        path = f"{before}{key}"
        nested = paths_of(value, f"{path}.") if isinstance(value, dict) else []
        paths += nested or [path]
    return paths


def first_step(field: str, there: Sequence[str]) -> str:
    """Return the outermost key of a path; ``there`` are the keys, which may have dots in them."""
    return field if field in there else field.partition(".")[0].removesuffix("[]")


def _found(value: Any, path: str) -> Any:
    """Return what is at a path; ``_ABSENT`` if nothing is."""
    if isinstance(value, dict) and path in value:
        return value[path]
    step, _, rest = path.partition(".")
    key = step.removesuffix("[]")
    if not isinstance(value, dict) or key not in value:
        return _ABSENT
    inner = value[key]
    if not step.endswith("[]"):
        if not rest:
            return inner
        return None if inner is None else _found(inner, rest)
    if not isinstance(inner, list) or not rest:
        return inner
    found = [each for each in (_found(item, rest) for item in inner) if each is not _ABSENT]
    return found if found or not inner else _ABSENT


def _text(value: Any) -> str:
    """Return the text of a value."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, (_text(_of_turn(item)) for item in value)))
    raise NoText(f"{_shown(value)}, not text")


def _of_turn(item: Any) -> Any:
    keys = [key for key in TURN if key in item] if isinstance(item, dict) else []
    return item[keys[0]] if keys else item


def _shown(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")
