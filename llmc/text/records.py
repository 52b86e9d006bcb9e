"""Documents out of records: JSON Lines, JSON and parquet, a batch or a chunk at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from llmc.errors import BadData
from llmc.installation import install_command
from llmc.text.documents import LINE, cut
from llmc.text.json_stream import JsonStream, json_reason

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROWS = 256


def jsonl_documents(
    chunks: Iterable[bytes], field: str, name: str, lines_before: Callable[[], int] = int
) -> Iterator[str]:
    """Yield the documents of JSON Lines: a string, or an object with its text in ``field``.

    Args:
        chunks: the lines, cut anywhere.
        field: where an object has its text.
        name: what the file is called in messages.
        lines_before: counts the lines of the file before these; called for a message only.

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
    """Yield the documents of JSON: a list of strings or objects, or such values one by one.

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
    """Return the text of a record, an object with it in ``field`` or a string; empty for null.

    Raises:
        ValueError: there is none; the message names the fields there are.
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


def parquet_groups(stream: BinaryIO, field: str, name: str) -> list[int]:
    """Return the size of the column ``field``, unpacked, of every row group.

    Raises:
        BadData: pyarrow is missing, it is not parquet, or there is no such column of text.
    """
    file = _parquet(stream, name)
    column = _column(file, field, name)
    groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
    return [int(group.column(column).total_uncompressed_size) for group in groups]


def parquet_documents(
    stream: BinaryIO, field: str, name: str, groups: range | None = None
) -> Iterator[str]:
    """Yield the texts of a parquet file's column, of all row groups or of some.

    Raises:
        BadData: as :func:`parquet_groups`; or the file is damaged.
    """
    import pyarrow as pa

    file = _parquet(stream, name)
    _column(file, field, name)
    wanted = range(file.metadata.num_row_groups) if groups is None else groups
    try:
        for batch in file.iter_batches(
            batch_size=ROWS, row_groups=list(wanted), columns=[field], use_threads=False
        ):
            for text in batch.column(0).to_pylist():
                if text:
                    yield text
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadData(f"{name} is damaged ({_reason(error)}): get it again") from error


def _parquet(stream: BinaryIO, name: str) -> pq.ParquetFile:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise BadData(
            f"{name} is parquet, which needs pyarrow: {install_command('parquet')}"
        ) from error
    try:
        # The buffer bounds what is held of a row group; without one it is read whole.
        return pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"{name} is not parquet, or damaged ({_reason(error)})") from error


def _column(file: pq.ParquetFile, field: str, name: str) -> int:
    """Return the place of the column ``field`` among the leaves.

    Raises:
        BadData: there is none, or it is not text.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    if field not in schema.names:
        there = ", ".join(f"'{column}'" for column in schema.names)
        raise BadData(f"{name} has no column '{field}': name one with --field (there: {there})")
    kind = schema.field(field).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value)):
        raise BadData(f"{name}: the column '{field}' is {kind}, not text: name another --field")
    leaves = [file.schema.column(index).path for index in range(len(file.schema))]
    return leaves.index(field)


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
