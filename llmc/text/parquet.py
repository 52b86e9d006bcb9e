"""Documents from the text column of a parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from llmc.errors import BadData
from llmc.installation import install_command

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROWS = 256  # in a batch


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
    return next(iter(str(error).splitlines()), type(error).__name__)
