"""Documents from the text columns of a parquet file, or of an Arrow table (.arrow, .feather)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from llmc.errors import BadData
from llmc.fetch.compression import check_growth
from llmc.installation import install_command
from llmc.text.conversations import document_of, fields_of_conversation
from llmc.text.fields import DEFAULT_FIELD, NoField, NoText, first_step, listed, missing
from llmc.text.utf8 import Unreadable

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROWS = 256  # in a batch
CONTINUES = b"\xff" * 4  # what a stream begins with, but for the oldest


def column_sizes(
    stream: BinaryIO, form: str, fields: Sequence[str], name: str, *, any_ratio: bool = False
) -> list[int]:
    """Return the size of the columns that hold the text, unpacked, of every row group of parquet.

    An arrow file does not record sizes: the list is empty.

    Raises:
        BadData: pyarrow is missing, it has another format, there is no such column of text, or it
            grows more than text does, without ``any_ratio``.
    """
    file = _opened(stream, form, name)
    wanted = {column for column, _ in _columns(file.schema_arrow, fields, name)}
    if isinstance(file, _Arrow):
        return []
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    plain = sum(group.total_byte_size for group in groups)
    check_growth(name, stream.seek(0, 2), plain, any_ratio=any_ratio)
    return [
        sum(
            int(column.total_uncompressed_size)
            for column in map(group.column, range(group.num_columns))
            if {column.path_in_schema, column.path_in_schema.partition(".")[0]} & wanted
        )
        for group in groups
    ]


def column_documents(
    stream: BinaryIO, form: str, fields: Sequence[str], name: str, groups: range | None = None
) -> Iterator[str]:
    """Yield the texts of a file of the format parquet, of all row groups or of some, or arrow.

    ``fields`` are as for :func:`llmc.text.fields.text_of`: columns, or paths into them.

    Raises:
        BadData: as :func:`column_sizes`; or the file is damaged, or a text is not UTF-8.
    """
    import pyarrow as pa

    file = _opened(stream, form, name)
    found = _columns(file.schema_arrow, fields, name)
    columns = list(dict.fromkeys(column for column, _ in found))
    row = 0
    try:
        for batch in _batches(file, columns, groups):
            for record in _records(batch, columns):
                row += 1
                if text := document_of(_decoded(record), fields):
                    yield text
    except NoText as error:
        raise NoField(f"{name}, row {row:,}: {error}") from error
    except UnicodeDecodeError as error:
        raise BadData(f"{name}, row {row:,}: not UTF-8 text; mend it or leave it out") from error
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise BadData(f"{name} is damaged ({_reason(error)}): get it again") from error


def _records(batch: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    for row in zip(*(batch.column(each).to_pylist() for each in columns), strict=True):
        yield dict(zip(columns, row, strict=True))


def _decoded(values: Any) -> Any:
    """Return values with texts for bytes, as Spark and ClickHouse write them, however deep."""
    if isinstance(values, bytes):
        return values.decode()
    if isinstance(values, list | tuple):
        return [_decoded(each) for each in values]
    if isinstance(values, dict):
        return {key: _decoded(each) for key, each in values.items()}
    return values


class _Arrow:
    """An Arrow table: a file, which begins with a mark, or a stream, as ``save_to_disk`` writes."""

    def __init__(self, stream: BinaryIO) -> None:
        import pyarrow as pa

        head = stream.read(8)
        is_file = head.startswith(b"ARROW1")
        size = int.from_bytes(head[4:] if head.startswith(CONTINUES) else head[:4], "little")
        if not is_file and size > stream.seek(0, 2):  # which pyarrow would allocate
            raise OSError("its first message is larger than it is")
        stream.seek(0)
        self._reader: Any = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
        self.schema_arrow = self._reader.schema

    def batches(self) -> Iterator[Any]:
        if hasattr(self._reader, "num_record_batches"):
            numbers = range(self._reader.num_record_batches)
            yield from (self._reader.get_batch(number) for number in numbers)
        else:
            yield from self._reader


def _batches(
    file: pq.ParquetFile | _Arrow, columns: list[str], groups: range | None
) -> Iterator[Any]:
    """Yield the rows of some columns, ``ROWS`` or fewer at a time."""
    if isinstance(file, _Arrow):
        for batch in file.batches():
            chosen = batch.select(columns)
            yield from (chosen.slice(at, ROWS) for at in range(0, len(chosen), ROWS))
        return
    wanted = range(file.metadata.num_row_groups) if groups is None else groups
    yield from file.iter_batches(
        batch_size=ROWS, row_groups=list(wanted), columns=columns, use_threads=False
    )


def _opened(stream: BinaryIO, form: str, name: str) -> pq.ParquetFile | _Arrow:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise Unreadable(
            name, f"is {form}, which needs pyarrow", install_command("parquet")
        ) from error
    try:
        if form == "arrow":
            return _Arrow(stream)
        # The buffer bounds what is held of a row group; without one it is read whole.
        return pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = f"is not {form}, or damaged ({_reason(error)})"
        raise Unreadable(name, reason, "get it again, or leave it out") from error


def _columns(schema: Any, fields: Sequence[str], name: str) -> list[tuple[str, str]]:
    """Return those of ``fields`` that are there: the column of each, and its path."""
    wanted = fields or _usual(schema)
    found = [(first_step(field, schema.names), field) for field in wanted]
    found = [(column, field) for column, field in found if column in schema.names]
    there = [path for field in schema for path in _paths(field)]
    if not found:
        raise NoField(f"{name} has {missing(fields, there, 'column')}")
    for column, field in found:
        if (count := schema.names.count(column)) > 1:
            raise NoField(f"{name} has {count} columns '{column}': rename one, or leave it out")
        kind = _type(schema, column)
        if column == field and not _may_be_text(kind):
            raise NoField(
                f"{name}: the column '{column}' is {kind}, not text: name another --field "
                f"(there: {listed(there)})"
            )
    return found


def _usual(schema: Any) -> tuple[str, ...]:
    """Return what is read where no column is named: ``text``, and a conversation beside it.

    A row may have either. A column that holds nothing counts as missing.
    """
    names = schema.names
    talk = fields_of_conversation(names)
    if DEFAULT_FIELD not in names or (talk and str(_type(schema, DEFAULT_FIELD)) == "null"):
        return talk or (DEFAULT_FIELD,)
    fits = all(names.count(each) == 1 and _may_be_text(_type(schema, each)) for each in talk)
    return (DEFAULT_FIELD, *(talk if fits else ()))


def _type(schema: Any, column: str) -> Any:
    return schema.field(schema.names.index(column)).type


def _paths(field: Any, before: str = "") -> list[str]:
    """Return a column, or the paths to the columns in it."""
    import pyarrow as pa

    path = f"{before}{field.name}"
    nested = list(field.type) if pa.types.is_struct(field.type) else []
    return [inner for each in nested for inner in _paths(each, f"{path}.")] or [path]


def _may_be_text(kind: Any) -> bool:
    """Return whether a column of this type holds text or lists."""
    words = ("string", "binary", "list", "map")
    if hasattr(kind, "value_type") and str(kind).startswith("dictionary"):
        return _may_be_text(kind.value_type)
    return str(kind).removeprefix("large_").removeprefix("fixed_size_").startswith(words)


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
