"""Documents from CSV and TSV: records whose columns the first row names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from llmc.errors import BadData
from llmc.text.conversations import document_of, fields_of_conversation
from llmc.text.documents import MAX_DOCUMENT
from llmc.text.fields import DEFAULT_FIELD, NoField, NoText, listed, missing
from llmc.text.utf8 import CHUNK, Decoder

DELIMITERS = ",;\t|"  # the one that the first row has most often
CONVERSATION = ""  # in place of a column: every row is one
LOOKED_AT = 100  # rows by which the column that holds text is recognised
SEPARATOR = re.compile(r"\ufeff?sep=(.)\s*", re.IGNORECASE)  # the first line, for Excel
# In the first row, what is not a column's name but data: a number, or a sentence.
DATA = re.compile(r"[-+]?\d+([.,]\d+)?|.*\s.*[.!?]\W*|(\S+\s+){7,}\S+\s*", re.DOTALL)
NO_PROSE = re.compile(r"[\W\d_]*|true|false|yes|no|null|none|na|nan", re.IGNORECASE)


def column_of(head: bytes, form: str, fields: Sequence[str], name: str) -> str:
    """Return the column that holds the text of a table that begins with ``head``, in UTF-8.

    It is the first of ``fields`` that is there. By default it is ``text``, or the only column, or
    the only one that holds more than numbers. Empty: every row is a conversation.

    Raises:
        NoField: there is none; the message names the columns.
    """
    rows = _rows(io.StringIO(head.decode(errors="ignore"), newline=""), form, name)
    found: list[list[str]] = []
    try:
        found += (row for _, row in islice(rows, LOOKED_AT))
    except BadData:
        if len(head) < CHUNK:  # else its last row is cut
            raise
    names = found[0] if found else []
    if not names:
        raise NoField(f"{name} has no rows: leave it out")
    if wanted := [field for field in fields if field in names]:
        column = wanted[0]
    elif fields:
        raise NoField(f"{name} has {missing(fields, names, 'column')}")
    else:
        column = _usual(names, found[1:], name)
    if names.count(column) > 1:
        raise NoField(f"{name} has {names.count(column)} columns '{column}': rename one")
    return column


def _usual(names: list[str], rows: list[list[str]], name: str) -> str:
    usual = [each for each in names if each.strip().lower() == DEFAULT_FIELD]
    if fields_of_conversation(_lowered(names)) and usual in ([], [DEFAULT_FIELD]):
        return CONVERSATION  # a row may have a text all the same
    if usual:
        return usual[0]
    prose = [
        each
        for at, each in enumerate(names)
        if any(NO_PROSE.fullmatch(row[at].strip()) is None for row in rows if at < len(row))
    ]
    if any(DATA.fullmatch(each) for each in names):
        raise NoField(
            f"{name} begins with a row that looks like data, not like the names of columns "
            f"({listed(names)}): add a row of names, name a column of that row with --field, or "
            "read it as plain text with --documents line"
        )
    if len(names) == 1 or len(prose) == 1:
        return (names if len(names) == 1 else prose)[0]
    raise NoField(f"{name} has {missing([], names, 'column')}")


def _lowered(names: list[str]) -> list[str]:
    return [each.strip().lower() for each in names]


def table_documents(chunks: Iterable[bytes], form: str, column: str, name: str) -> Iterator[str]:
    """Yield the texts in the column ``column`` of a table in UTF-8, without the empty ones.

    With ``CONVERSATION``, the conversations in its rows.

    Raises:
        BadData: a row is not CSV, or has more or fewer columns than the first; or the conversation
            in it is broken.
    """
    rows = _rows(_lines(chunks, name), form, name)
    _, names = next(rows, (0, []))
    if column == CONVERSATION:
        yield from _conversations(rows, _lowered(names), name)
        return
    if column not in names:
        raise NoField(f"{name} has {missing([column], names, 'column')}")
    at = names.index(column)
    for _, row in rows:
        if row[at]:
            yield row[at]


def _conversations(
    rows: Iterable[tuple[int, list[str]]], names: list[str], name: str
) -> Iterator[str]:
    for line, row in rows:
        try:
            text = document_of(dict(zip(names, row, strict=True)), ())
        except NoText as error:
            raise NoField(f"{name}, line {line:,}: {error}") from error
        if text:
            yield text


def _rows(lines: Iterable[str], form: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with its last line, the names of the columns first, without empty lines."""
    csv.field_size_limit(MAX_DOCUMENT)
    lines = iter(lines)
    first = next(lines, "")
    if said := SEPARATOR.fullmatch(first):
        delimiter = said[1]
    else:
        lines = chain([first], lines)
        counts = [(first.count(each), -at, each) for at, each in enumerate(DELIMITERS)]
        delimiter = "\t" if form == "tsv" and "\t" in first else max(counts)[2]
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns = 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise BadData(
                f"{name}, line {reader.line_num:,}: not {form.upper()} ({error}); mend it, or read "
                "it as plain text with --documents line"
            ) from error
        if row is None:
            return
        if not row:
            continue
        columns = columns or len(row)
        if len(row) != columns:
            raise BadData(
                f"{name}, line {reader.line_num:,}: a row of {len(row)} columns, where the first "
                f"row has {columns}; mend it, or read it as plain text with --documents line"
            )
        yield reader.line_num, row


def _lines(chunks: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the lines of a text with their ends, which csv needs; LF, CR LF and CR end one."""
    decoder = Decoder(name)
    held = ""
    for chunk in chunks:
        *whole, held = [*io.StringIO(held + decoder.text(chunk), newline="")] or [""]
        yield from whole
    yield from io.StringIO(held + decoder.text(b"", final=True), newline="")
