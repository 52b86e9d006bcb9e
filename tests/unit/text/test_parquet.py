"""Parquet: what pyarrow writes comes back as documents, and faults are named."""

from __future__ import annotations

import io
from typing import Any

import pytest

from llmc.errors import BadData
from llmc.text.parquet import parquet_documents, parquet_groups


def parquet(columns: dict[str, Any], **options: Any) -> io.BytesIO:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_parquet_that_pyarrow_writes_comes_back(kind: str, compression: str) -> None:
    pa = pytest.importorskip("pyarrow")
    texts = [f"Größe {index} 🙂\r\n" * (index % 7) for index in range(1000)]
    column = pa.array([*texts, None], pa.large_string() if kind == "large_string" else None)
    column = column.dictionary_encode() if kind == "dictionary" else column
    columns = {"id": list(range(1001)), "text": column}
    file = parquet(columns, row_group_size=100, compression=compression)
    groups = parquet_groups(file, ["text"], "x.parquet")
    assert len(groups) == 11
    assert all(size > 0 for size in groups)
    wanted = [text for text in texts if text]
    assert list(parquet_documents(file, ["text"], "x.parquet")) == wanted
    halves = [range(0, 3), range(3, 11)]
    found = [t for half in halves for t in parquet_documents(file, ["text"], "x.parquet", half)]
    assert found == wanted


def test_a_parquet_column_is_named_where_it_is_not_there() -> None:
    file = parquet({"id": [1], "story": ["a"]})
    with pytest.raises(BadData, match=r"x\.parquet has no column 'text'.*'id', 'story'"):
        list(parquet_documents(file, ["text"], "x.parquet"))
    with pytest.raises(BadData, match="the column 'id' is int64, not text"):
        parquet_groups(file, ["id"], "x.parquet")


def test_what_is_not_parquet_is_refused() -> None:
    whole = parquet({"text": [str(index) * 9 for index in range(5000)]}).getvalue()
    for data in (b"text", whole[:-9], b""):
        with pytest.raises(BadData, match=r"x\.parquet is not parquet, or damaged"):
            parquet_groups(io.BytesIO(data), ["text"], "x.parquet")
    damaged = whole[:20] + bytes(1000) + whole[1020:]
    with pytest.raises(BadData, match=r"x\.parquet is damaged"):
        list(parquet_documents(io.BytesIO(damaged), ["text"], "x.parquet"))


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BadData, match=r"needs pyarrow: .*pip install .*\[parquet\]"):
        parquet_groups(io.BytesIO(), ["text"], "x.parquet")
