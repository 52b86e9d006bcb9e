"""The fields of records: nested ones, several, of tables; and options that cannot apply."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text.conversations import messages_of, packed
from llmc.text.fields import NoText, text_of
from llmc.text.reading import Reading
from llmc.text.source import open_source
from tests.helpers.texts import opened

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Hello"}]}
PARTS = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}
NESTED = {"id": 1, "meta": {"text": "inner", "n": 2}, "a.b": "dotted", "t": None}


@pytest.fixture(autouse=True)
def here(workspace: Workspace) -> Path:
    return workspace.root


@pytest.mark.parametrize(
    ("record", "fields", "text"),
    [
        (CHAT, ["messages"], "Hi\nHello"),
        (CHAT, ["messages[].content"], "Hi\nHello"),
        (CHAT, ["messages[].role"], "user\nbot"),
        (PARTS, ["messages"], "Hi"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, ["conversations"], "Hi"),
        (NESTED, ["meta.text"], "inner"),
        (NESTED, ["a.b"], "dotted"),
        (NESTED, ["t"], ""),
        (NESTED, ["t.u.v"], ""),
        (NESTED, ["t", "meta.text"], "inner"),
        (NESTED, ["nosuch", "meta.text"], "inner"),
        (NESTED, ["id", "meta.text"], "inner"),
        ({"a": [{"b": [{"c": "1"}, {"c": "2"}]}, {"b": []}, {}]}, ["a[].b[].c"], "1\n2"),
        ({"lines": ["one", "two", None]}, ["lines"], "one\ntwo"),
        ({"a": []}, ["a[].b"], ""),
        ("bare", ["text"], "bare"),
    ],
)
def test_the_text_of_a_record(record: Any, fields: list[str], text: str) -> None:
    assert text_of(record, fields) == text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["nosuch"], r"no field 'nosuch': .*'id', 'meta\.text', 'meta\.n', 'a\.b', 't'"),
        (["x", "y"], "no field 'x' or 'y'"),
        (["meta"], "'meta' is an object, not text: name another --field"),
        (["id"], "'id' is a number"),
        (["meta.nosuch"], r"no field 'meta\.nosuch'"),
        (["id.x"], r"no field 'id\.x'"),
    ],
)
def test_a_record_without_text_lists_its_fields(fields: list[str], words: str) -> None:
    with pytest.raises(NoText, match=words):
        text_of(NESTED, fields)


def test_a_folder_of_records_with_different_fields(here: Path) -> None:
    (here / "f").mkdir()
    (here / "f" / "a.jsonl").write_text('{"text": "A"}\n')
    (here / "f" / "b.jsonl").write_text('{"story": "B", "n": 1}\n')
    with pytest.raises(BadData, match=r"f/b\.jsonl, line 1: no field 'text'.*'story', 'n'"):
        opened("f")
    assert opened("f", Reading(field=("text", "story"))) == ["A", "B"]


def test_nested_columns_of_parquet_are_those_of_json(here: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [{"meta": {"text": f"t{n}"}, **CHAT} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), "x.parquet")
    (here / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for field in ("meta.text", "messages", "messages[].role", ("nosuch", "meta.text")):
        wanted = opened("x.jsonl", Reading(field=field))
        assert opened("x.parquet", Reading(field=field)) == wanted
        assert len(wanted) == 3
    assert opened("x.parquet") == opened("x.jsonl") == [packed(messages_of(CHAT["messages"]))] * 3
    pq.write_table(pa.Table.from_pylist([{"meta": {"text": "t"}, "id": 1}]), "y.parquet")
    with pytest.raises(BadData, match=r"no column 'text'.*'meta\.text', 'id'"):
        opened("y.parquet")


@pytest.mark.parametrize(
    "kind", ["string", "large_string", "string_view", "binary", "large_binary", "dictionary"]
)
def test_parquet_columns_of_text(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    texts = ["Größe", "", "two"]
    values = pa.array([text.encode() for text in texts]) if "binary" in kind else pa.array(texts)
    if kind == "dictionary":
        values = values.dictionary_encode()
    elif kind != "binary":
        values = values.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"id": [1, 2, 3], "text": values}), "x.parquet")
    assert opened("x.parquet") == ["Größe", "two"]


def test_parquet_faults_are_one_sentence() -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, "twice.parquet")
    pq.write_table(pa.table({"text": [b"caf\xe9"]}), "latin.parquet")
    pq.write_table(pa.table({"text": [1]}), "number.parquet")
    for name, words in {
        "twice": "has 2 columns 'text'",
        "latin": "row 1: not UTF-8",
        "number": "is int64, not text",
    }.items():
        with pytest.raises(BadData, match=rf"{name}\.parquet.*{words}"):
            opened(f"{name}.parquet")


ROWS = [["1", 'He said "hi, there"', "two\nlines, 1"], ["2", "", "x;y"], ["3", "t", ""]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_csv_that_python_writes(here: Path, delimiter: str, end: str, quoting: Any) -> None:
    names = ["x.csv", "x.tsv"] if delimiter == "\t" else ["x.csv"]
    for name in names:
        with (here / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
            writer.writerows([["id", "title", "text"], *ROWS])
        assert opened(name) == ["two\nlines, 1", "x;y"]
        assert opened(name, Reading(field="title")) == ['He said "hi, there"', "t"]
        assert opened(name, Reading(field=("story", "title"))) == ['He said "hi, there"', "t"]
        assert opened(name, Reading(documents="record")) == ["two\nlines, 1", "x;y"]
        assert opened(name, Reading(documents="line"))[0].strip('"').startswith("id")


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ("id,Text\n1,a\n", ["a"]),
        ("joke\na\nb\n", ["a", "b"]),
        ("ID,Joke,score\n1,a,0.5\n2,b,-1\n", ["a", "b"]),
        ("\ufeffid,text\n\n1,a\n\n", ["a"]),
        ("n,text\r1,a\r2,b", ["a", "b"]),
        ("sep=;\nid;text\n1;a, b\n", ["a, b"]),
        ("\ufeffsep=\t\r\nid\ttext\r\n1\ta\r\n", ["a"]),
        (",joke\n0,a\n", ["a"]),
        ("text,question,answer\na,b,c\n,,\n", ["a"]),
    ],
)
def test_the_obvious_column_of_a_table(here: Path, table: str, wanted: list[str]) -> None:
    (here / "x.csv").write_text(table, newline="")
    assert opened("x.csv") == wanted


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("id,title,body\n1,a,b\n", "no column 'text', .*'id', 'title', 'body'"),
        ("a,b\n1,2\n", "no column 'text', .*'messages'.*'a', 'b'"),
        ("text,text\na,b\n", "has 2 columns 'text'"),
        ("It was a cold night.\nNobody came.\n", "looks like data.*add a row of names"),
        ("1,one two\n2,three\n", "looks like data.*'1', 'one two'"),
        ("so we went on and on until the end\na\n", "looks like data"),
        ("id,text\n1,a,b\n", "line 2: a row of 3 columns, where the first row has 2"),
        ("id,text\n1\n", "line 2: a row of 1 columns"),
        ('id,text\n1,"a\n', "line .*: not CSV"),
        ('id,text\n1,"a"b\n', "line 2: not CSV"),
        ("\n\n", "has no rows"),
    ],
)
def test_a_faulty_table_is_refused(here: Path, table: str, words: str) -> None:
    (here / "x.csv").write_text(table)
    with pytest.raises(BadData, match=rf"x\.csv.*{words}"):
        opened("x.csv")


def test_a_tsv_without_tabs_and_a_header_that_is_named(here: Path) -> None:
    (here / "x.tsv").write_text("text,id\na,1\nb,2\n")
    assert opened("x.tsv") == ["a", "b"]
    (here / "x.csv").write_text("0,what is it?\n1,a\n")
    assert opened("x.csv", Reading(field="what is it?")) == ["a"]


def test_a_long_table_in_chunks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[str(n), "x" * (n % 50) + '\r\n, "é"'] for n in range(500)]
    with (here / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["n", "text"], *rows])
    monkeypatch.setattr("llmc.text.files.CHUNK", 7)
    wanted = [text for _, text in rows]
    assert opened("x.csv", Reading(newlines="keep", field="text")) == wanted


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "a"}, {"text": "b"}]',
        '[\n{"text": "a"},\n{"text": "b"}\n]\n',
        '\n{\n "text": "a",\n "n": 1\n}\n{\n "text": "b"\n}\n',
        '{"text":\n"a"}\n{"text": "b"}\n',
        '\ufeff[\n"a", "b"\n]',
    ],
)
def test_json_that_is_called_json_lines(here: Path, text: str) -> None:
    (here / "x.jsonl").write_text(text)
    assert opened("x.jsonl") == ["a", "b"]


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading(include=("*.py",)), "--include chooses among the files"),
        (Reading(exclude=("n*",)), "--exclude chooses among the files"),
        (Reading(field="story"), "--field names a field of records"),
    ],
)
def test_options_that_cannot_apply_are_refused(here: Path, reading: Reading, words: str) -> None:
    (here / "notes.txt").write_text("text")
    (here / "more.txt").write_text("text")
    with pytest.raises(Usage, match=words):
        open_source(Workspace(Path()), ["notes.txt", "more.txt"], reading)


def test_include_chooses_among_what_a_pattern_finds(here: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (here / name).write_text(name)
    assert opened("*.*", Reading(exclude=("b*",), include=("*.txt",))) == ["a.txt"]
