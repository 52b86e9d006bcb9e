"""The description of a file or a folder, for a person and for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONGEST_TEXT = 200  # characters of foreign text in one place
ELSEWHERE = object()  # the value of a fact that JSON has under another key


@dataclass(frozen=True)
class Fact:
    """One line of a description.

    Attributes:
        name: the key in JSON, in lower case with underscores; a person sees spaces.
        value: the value in JSON.
        shown: the text for a person; None: the fact is in JSON only.
    """

    name: str
    value: Any
    shown: str | None


@dataclass(frozen=True)
class Table:
    """A table of a description: a list of objects in JSON.

    Attributes:
        name: the key in JSON, and the heading.
        columns: the keys of the objects, and the column heads. A column whose head begins with
            ``>`` has numbers and is aligned to the right.
        rows: the values, one for each column.
        shown: the texts for a person.
        left_out: the number of further rows.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    shown: tuple[tuple[str, ...], ...]
    left_out: int = 0


@dataclass
class Description:
    """A description of a file or folder.

    Attributes:
        path: the file or folder.
        kind: one word for a program: ``tokens``, ``checkpoint``, ``dataset`` …
        title: one line for a person.
        facts: the facts, in the order in which they are shown.
        tables: lists of tensors, tokens, files.
        problems: a sentence for each thing that is wrong.
        parts: descriptions of the parts of a folder.
        hints: commands to type next.
    """

    path: Path
    kind: str
    title: str
    facts: list[Fact] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    parts: list[Description] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def say(self, name: str, value: Any, shown: str | None = None) -> None:
        """Add a fact; without ``shown`` the value is shown, numbers in groups of three."""
        self.facts.append(Fact(name, value, shown_value(value) if shown is None else shown))

    def tell(self, name: str, shown: str) -> None:
        """Add a fact for a person only; JSON has it under another key."""
        self.facts.append(Fact(name, ELSEWHERE, shown))

    def note(self, name: str, value: Any) -> None:
        """Add a fact for JSON only."""
        self.facts.append(Fact(name, value, None))

    def known(self, name: str) -> Any:
        """Return the value of a fact, None where there is no such fact."""
        return next((fact.value for fact in self.facts if fact.name == name), None)

    def say_bytes(self) -> int:
        """Add the size of the file, and return it.

        Raises:
            OSError: there is no such file.
        """
        size = self.path.stat().st_size
        self.say("bytes", size, byte_count(size))
        return size

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
        shown: Iterable[Sequence[str]] | None = None,
        left_out: int = 0,
    ) -> None:
        """Add a table, unless it is empty; without ``shown`` the values are shown as they are."""
        values = tuple(tuple(row) for row in rows)
        if not values:
            return
        if shown is None:
            shown = [[shown_value(cell) for cell in row] for row in values]
        texts = tuple(tuple(row) for row in shown)
        self.tables.append(Table(name, tuple(columns), values, texts, left_out))

    def all_problems(self) -> list[str]:
        """Return the problems here and in the parts, each sentence once."""
        found = [*self.problems, *(p for part in self.parts for p in part.all_problems())]
        return list(dict.fromkeys(found))

    def as_json(self) -> dict[str, Any]:
        """Return everything for ``json.dumps``; NaN and infinities become null."""
        fields: dict[str, Any] = {
            "path": safe_text(str(self.path), limit=None),
            "kind": self.kind,
            "ok": not self.all_problems(),
            "title": self.title,
        }
        for fact in self.facts:
            if fact.value is not ELSEWHERE:
                fields[fact.name] = _for_json(fact.value)
        for table in self.tables:
            keys = [column.lstrip(">").replace(" ", "_") for column in table.columns]
            fields[table.name.replace(" ", "_")] = [
                dict(zip(keys, map(_for_json, row), strict=True)) for row in table.rows
            ]
        fields["problems"] = self.problems
        if self.parts:
            fields["parts"] = [part.as_json() for part in self.parts]
        return fields


def shown_value(value: Any) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return safe_text(str(value))


def safe_text(text: str, limit: int | None = LONGEST_TEXT) -> str:
    r"""Return foreign text on one line that is safe for a terminal.

    Characters that are not printable (controls, escapes, characters that change the direction of
    writing, halves of surrogate pairs) become ``\n``, ``\x1b`` or ``\u202e``. A text longer than
    ``limit`` characters is cut and ends in an ellipsis.
    """
    cut = limit is not None and len(text) > limit
    head = text[:limit] if cut else text
    safe = "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
        for char in head
    )
    return f"{safe}…" if cut else safe


def safe_bytes(data: bytes, limit: int | None = LONGEST_TEXT) -> str:
    r"""Return bytes as :func:`safe_text` does; bytes that are not UTF-8 become ``\xff``."""
    cut = limit is not None and len(data) > 4 * limit
    parts: list[str] = []
    rest = data[: 4 * limit] if limit is not None and cut else data
    while rest:
        try:
            parts.append(safe_text(rest.decode(), None))
            break
        except UnicodeDecodeError as error:
            parts.append(safe_text(rest[: error.start].decode(), None))
            parts.append("".join(f"\\x{byte:02x}" for byte in rest[error.start : error.end]))
            rest = rest[error.end :]
    shown = "".join(parts)
    if limit is not None and (cut or len(shown) > 2 * limit):
        return f"{shown[: 2 * limit]}…"
    return shown


def quoted(data: bytes, limit: int | None = LONGEST_TEXT) -> str:
    """Return bytes as :func:`safe_bytes` between quotes, where spaces count."""
    return f'"{safe_bytes(data, limit)}"'


def byte_count(count: int) -> str:
    """Return ``1,234 bytes``, with the rounded size after it where that is easier to read."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count:,} bytes ({count / size:.2f} {unit})"
    return f"{count:,} byte{'' if count == 1 else 's'}"


def _for_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(_for_json(key)): _for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(item) for item in value]
    return value
