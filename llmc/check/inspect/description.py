"""The description of a file or a folder, for a person and for JSON.

A value has one form for JSON and one for a person. Bytes are text of unknown origin: JSON has them
with U+FFFD for what is not UTF-8, and a person sees them quoted and escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_TEXT = 200  # characters of foreign text in one place
ELSEWHERE = object()  # the value of a fact that JSON has under another key


class Fact(NamedTuple):
    """One line of a description; a fact without ``shown`` is in JSON only."""

    name: str
    value: Any
    shown: str | None


class Table(NamedTuple):
    """A table of a description: a list of objects in JSON."""

    name: str
    # The keys of the objects, and the column heads. A column whose head begins with ``>`` has
    # numbers and is aligned to the right.
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    shown: Sequence[Sequence[str]]
    left_out: int  # the number of further rows


@dataclass
class Description:
    """A description of a file or folder."""

    path: Path
    kind: str  # one word for a program: ``tokens``, ``checkpoint``, ``dataset`` …
    title: str  # one line for a person
    # The facts, in the order in which they are shown.
    facts: list[Fact] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)  # lists of tensors, tokens, files
    problems: list[str] = field(default_factory=list)  # a sentence for each thing that is wrong
    parts: list[Description] = field(default_factory=list)  # descriptions of the parts of a folder
    hints: list[str] = field(default_factory=list)  # commands to type next

    def say(self, name: str, value: Any, shown: str | None = None) -> None:
        """Add a fact; without ``shown`` the value is shown as :func:`shown_value` does."""
        self.facts.append(Fact(name, value, shown_value(value) if shown is None else shown))

    def tell(self, name: str, shown: str) -> None:
        """Add a fact for a person only; JSON has it under another key."""
        self.facts.append(Fact(name, ELSEWHERE, shown))

    def note(self, **values: Any) -> None:
        """Add facts for JSON only."""
        self.facts += [Fact(name, value, None) for name, value in values.items()]

    def fields(self, source: object, **forms: str) -> None:
        """Add attributes of ``source``, each with its format; an empty one is the usual form."""
        for name, form in forms.items():
            value = getattr(source, name)
            self.say(name, value, form.format(value) if form and value is not None else None)

    def known(self, name: str) -> Any:
        """Return the value of a fact, None where there is no such fact."""
        return next((fact.value for fact in self.facts if fact.name == name), None)

    def wrong(self, sentence: str) -> None:
        """Add a problem, once."""
        if sentence not in self.problems:
            self.problems.append(sentence)

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        total: int = 0,
        forms: Mapping[str, Callable[[Any], str]] | None = None,
    ) -> None:
        """Add a table, unless it is empty.

        Args:
            name: the key in JSON, and the heading.
            columns: see :class:`Table`.
            rows: the values, one for each column.
            total: the number of rows, if ``rows`` are only the first of them.
            forms: how the values of a column are shown; default: as :func:`shown_value` does.
        """
        shows = [(forms or {}).get(column, shown_value) for column in columns]
        if values := list(rows):
            shown = [[show(cell) for show, cell in zip(shows, row, strict=True)] for row in values]
            self.tables.append(Table(name, columns, values, shown, max(0, total - len(values))))

    def all_problems(self) -> list[str]:
        """Return the problems here and in the parts, each sentence once."""
        found = [*self.problems, *(p for part in self.parts for p in part.all_problems())]
        return list(dict.fromkeys(found))

    def as_json(self) -> dict[str, Any]:
        """Return everything for ``json.dumps``; NaN and infinities become null."""
        facts = {fact.name: fact.value for fact in self.facts if fact.value is not ELSEWHERE}
        tables = {}
        for table in self.tables:
            keys = [column.lstrip(">") for column in table.columns]
            rows = [dict(zip(keys, row, strict=True)) for row in table.rows]
            tables[table.name.replace(" ", "_")] = rows
        fields: dict[str, Any] = {
            "path": safe_text(str(self.path), None),
            "kind": self.kind,
            "ok": not self.all_problems(),
            "title": self.title,
            **_for_json(facts),
            **_for_json(tables),
            "problems": self.problems,
        }
        return fields | ({"parts": [part.as_json() for part in self.parts]} if self.parts else {})


def shown_value(value: Any) -> str:
    """Return a value as a person reads it; numbers in groups of three digits."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case bytes():
            return quoted(value)
    return safe_text(str(value))


def safe_text(text: str, limit: int | None = LONGEST_TEXT) -> str:
    r"""Return foreign text on one line that is safe for a terminal.

    Characters that are not printable (controls, escapes, characters that change the direction of
    writing, halves of surrogate pairs) become ``\n``, ``\x1b`` or ``\u202e``, and bytes that
    ``surrogateescape`` decoded become ``\xff``. A text longer than ``limit`` characters is cut and
    ends in an ellipsis.
    """
    cut = limit is not None and len(text) > limit
    safe = "".join(
        char if char.isprintable() and char != "\\" else _escaped(char) for char in text[:limit]
    )
    return f"{safe}…" if cut else safe


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def quoted(data: bytes, limit: int = LONGEST_TEXT) -> str:
    """Return bytes as :func:`safe_text` between quotes, where spaces count."""
    text = data[: 4 * limit + 4].decode(errors="surrogateescape")  # over limit characters, or all
    return f'"{safe_text(text, limit)}"'


def byte_count(count: int) -> str:
    """Return ``1,234 bytes``, with the rounded size after it where that is easier to read."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count:,} bytes ({count / size:.2f} {unit})"
    return f"{count:,} byte{'' if count == 1 else 's'}"


def _for_json(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value.encode("utf-8", "replace").decode()
        case bytes():
            return value.decode(errors="replace")
        case dict():
            return {str(_for_json(key)): _for_json(item) for key, item in value.items()}
        case list() | tuple():
            return [_for_json(item) for item in value]
    return value
