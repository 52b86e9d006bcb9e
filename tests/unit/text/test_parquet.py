"""Parquet: what pyarrow writes comes back as documents, and faults are named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from llmc.errors import BadData
from llmc.paths import Workspace
from llmc.text.conversations import is_packed, plain_text
from llmc.text.parquet import column_documents, column_sizes
from llmc.text.source import documents_of, open_source


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
    groups = column_sizes(file, "parquet", ["text"], "x.parquet")
    assert len(groups) == 11
    assert all(size > 0 for size in groups)
    wanted = [text for text in texts if text]
    assert list(column_documents(file, "parquet", ["text"], "x.parquet")) == wanted
    halves = [range(0, 3), range(3, 11)]
    found = [
        t for half in halves for t in column_documents(file, "parquet", ["text"], "x.parquet", half)
    ]
    assert found == wanted


def test_a_parquet_column_is_named_where_it_is_not_there() -> None:
    file = parquet({"id": [1], "story": ["a"]})
    with pytest.raises(BadData, match=r"x\.parquet has no column 'text'.*'id', 'story'"):
        list(column_documents(file, "parquet", [], "x.parquet"))
    with pytest.raises(BadData, match="the column 'id' is int64, not text"):
        column_sizes(file, "parquet", ["id"], "x.parquet")


def conversation(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]


@pytest.mark.parametrize("kind", ["string", "null"])
def test_a_column_without_text_leaves_conversations(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    text = pa.array([None, None], kind)
    file = parquet({"text": text, "messages": [conversation("a"), conversation("b")]})
    assert sum(column_sizes(file, "parquet", [], "x.parquet")) > 0
    found = list(column_documents(file, "parquet", [], "x.parquet"))
    assert [plain_text(each) for each in found] == ["Hi\na", "Hi\nb"]
    assert all(map(is_packed, found))


def test_a_row_is_a_conversation_or_text_and_one_without_both_is_nothing() -> None:
    talks = [*map(conversation, "abc"), None]
    columns = {"text": ["t", "", "Hi: c", None], "messages": talks, "system": [*"stu", None]}
    found = list(column_documents(parquet(columns), "parquet", [], "x.parquet"))
    assert [plain_text(each) for each in found] == ["t", "t\nHi\nb", "u\nHi\nc"]
    found = list(column_documents(parquet(columns), "parquet", ["text"], "x.parquet"))
    assert found == ["t", "Hi: c"]
    broken: dict[str, Any] = {"text": ["t", "u"], "question": ["q", "q"], "answer": [1, 2]}
    assert list(column_documents(parquet(broken), "parquet", [], "x.parquet")) == ["t", "u"]


def test_what_is_not_parquet_is_refused() -> None:
    whole = parquet({"text": [str(index) * 9 for index in range(5000)]}).getvalue()
    for data in (b"text", whole[:-9], b""):
        with pytest.raises(BadData, match=r"x\.parquet is not parquet, or damaged"):
            column_sizes(io.BytesIO(data), "parquet", ["text"], "x.parquet")
    damaged = whole[:20] + bytes(1000) + whole[1020:]
    with pytest.raises(BadData, match=r"x\.parquet is damaged"):
        list(column_documents(io.BytesIO(damaged), "parquet", ["text"], "x.parquet"))


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BadData, match=r"needs pyarrow: .*pip install .*\[parquet\]"):
        column_sizes(io.BytesIO(), "parquet", ["text"], "x.parquet")


def arrow(columns: dict[str, Any], *, stream: bool) -> io.BytesIO:
    pa = pytest.importorskip("pyarrow")
    table, file = pa.table(columns), io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    file.seek(0)
    return file


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_tables_come_back(stream: bool) -> None:
    texts = [f"Größe {index} 🙂" * (index % 3) for index in range(1000)]
    columns = {"id": list(range(1000)), "text": texts, "meta": [{"a": text} for text in texts]}
    wanted = [text for text in texts if text]
    for field in ("text", "meta.a"):
        assert (
            list(column_documents(arrow(columns, stream=stream), "arrow", [field], "x")) == wanted
        )
    with pytest.raises(BadData, match="the column 'id' is int64, not text"):
        column_sizes(arrow(columns, stream=stream), "arrow", ["id"], "x.arrow")
    cut = io.BytesIO(arrow(columns, stream=stream).getvalue()[:3000])
    with pytest.raises(BadData, match=r"x\.arrow is (damaged|not arrow)"):
        list(column_documents(cut, "arrow", ["text"], "x.arrow"))


def test_feather_is_an_arrow_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, feather = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.feather")
    monkeypatch.chdir(tmp_path)
    feather.write_feather(pa.table({"text": ["one", "two"]}), "x.feather")
    assert list(documents_of(open_source(Workspace(Path()), ["x.feather"]).parts)) == ["one", "two"]
