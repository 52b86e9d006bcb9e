"""The same documents from every form a text can come in, and one sentence for every fault."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import tarfile
from pathlib import Path

import pytest

from llmc.errors import BadData
from llmc.paths import Workspace
from llmc.text import parts as pieces
from llmc.text.source import AS_USUAL, Reading, open_source
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.texts import COMPRESSORS, TEXTS, documents, jsonl_of, opened, parquet_of, tar_of
from tests.helpers.workspace import ok

UNIX = [text.replace("\r\n", "\n") for text in TEXTS]


def forms() -> dict[str, bytes]:
    """Return files that hold ``TEXTS``, each in another form."""
    files = {f"code/{index}.py": text.encode() for index, text in enumerate(TEXTS)}
    marked = "\n<|endoftext|>\n".join(TEXTS[:3]).encode()
    return {
        "texts.jsonl": jsonl_of(TEXTS),
        "texts.ndjson": jsonl_of(TEXTS),
        "texts.json": json.dumps([{"text": text} for text in TEXTS], indent=1).encode(),
        "strings.json": json.dumps(TEXTS, ensure_ascii=False).encode(),
        "texts.parquet": parquet_of(TEXTS),
        "texts.tar": tar_of(files),
        "gnu.tar": tar_of(files, tarfile.GNU_FORMAT),
        "jsonl.tar": tar_of({"a.jsonl": jsonl_of(TEXTS[:2]), "b.jsonl": jsonl_of(TEXTS[2:])}),
        "packed.tar": tar_of({f"{name}.gz": gzip.compress(data) for name, data in files.items()}),
        "parquet.tar": tar_of({"a.parquet": parquet_of(TEXTS)}),
        "marked.txt": marked,
    }


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("name", list(forms()))
def test_documents_are_the_same_in_every_form(
    workspace: Workspace, name: str, compressor: str
) -> None:
    path = workspace.root / f"{name}{compressor}"
    path.write_bytes(COMPRESSORS[compressor](forms()[name]))
    wanted = [text.strip() for text in UNIX[:3]] if name == "marked.txt" else UNIX
    source = open_source(workspace, [path.name])
    assert documents(source) == wanted
    kept = [text.strip() for text in TEXTS[:3]] if name == "marked.txt" else TEXTS
    assert opened(path.name, Reading(newlines="keep")) == kept
    assert source.name == name.partition(".")[0]
    (record,) = source.records
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["bytes"] == path.stat().st_size


def test_short_suffixes_of_packed_tars(workspace: Workspace) -> None:
    archive = tar_of({"a.txt": b"A", "./b/c.txt": b"C"})
    for suffix, packed in {".tgz": gzip.compress(archive), ".TXZ": lzma.compress(archive)}.items():
        (workspace.root / f"x{suffix}").write_bytes(packed)
        assert opened(f"x{suffix}") == ["A", "C"]


@pytest.mark.parametrize("small", [1, 50, 1 << 26])
@pytest.mark.parametrize("rule", [None, "line", "blank-line", "endoftext", "file", "'", r"\n#"])
def test_parts_of_any_size_hold_the_same_documents(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, rule: str | None, small: int
) -> None:
    text = ("".join(TEXTS) + "\n\n<|endoftext|>\n").replace("\r\n", "\r\r\n") * 5
    (workspace.root / "a.txt").write_bytes(text.encode())
    (workspace.root / "a.tar").write_bytes(tar_of({"a.txt": text.encode(), "b.txt": b"B"}))
    (workspace.root / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    reading = Reading(documents=rule)
    whole = opened("a.txt.gz", reading)
    monkeypatch.setattr(pieces, "PART_BYTES", small)
    source = open_source(workspace, ["a.txt"], reading)
    assert documents(source) == whole
    assert source.total_bytes == len(text.encode())
    assert opened("a.tar", reading) == [*whole, "B"]
    if small == 50 and rule in ("line", "blank-line"):
        assert len(source.parts) >= 10


@pytest.mark.parametrize("small", [1, 60, 1 << 26])
def test_jsonl_and_parquet_in_parts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(pieces, "PART_BYTES", small)
    (workspace.root / "x.jsonl").write_bytes(jsonl_of(TEXTS * 20))
    (workspace.root / "x.parquet").write_bytes(parquet_of(TEXTS * 20))
    assert opened("x.jsonl") == opened("x.parquet") == UNIX * 20
    if small < 100:
        assert len(open_source(workspace, ["x.jsonl"]).parts) > 20
        assert len(open_source(workspace, ["x.parquet"]).parts) > 20


def test_a_fault_in_a_later_part_is_named_by_the_line_of_the_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PART_BYTES", 100)
    lines = jsonl_of(["some text"] * 50)
    (workspace.root / "x.jsonl").write_bytes(b"\n\n" + lines + b"{]\n" + lines)
    assert len(open_source(workspace, ["x.jsonl"]).parts) > 10
    with pytest.raises(BadData, match=r"x\.jsonl, line 53: not JSON"):
        opened("x.jsonl")
    (workspace.root / "x.tar").write_bytes(tar_of({"a": b"A\n", "x.jsonl": lines + b"{]"}))
    with pytest.raises(BadData, match=r"x\.tar:x\.jsonl, line 51: not JSON"):
        opened("x.tar")


def test_lines_of_endoftext_are_noted_and_can_be_kept(workspace: Workspace) -> None:
    (workspace.root / "s.txt").write_text("one\n<|endoftext|>\ntwo\n")
    source = open_source(workspace, ["s.txt"])
    assert documents(source) == ["one", "two"]
    assert "--documents file makes it one" in source.notes[0]
    assert source.records[0]["documents"] == "endoftext"
    kept = open_source(workspace, ["s.txt"], Reading(documents="file"))
    assert documents(kept) == ["one\n<|endoftext|>\ntwo\n"]
    assert kept.notes == ()
    assert kept.records[0]["documents"] == "file"


@pytest.fixture
def tree(workspace: Workspace) -> Path:
    files = {
        "a.py": "A",
        "b.md": "B",
        "deep/c.py": "C",
        "deep/tests/d.py": "D",
        ".git/e.py": "hidden",
        "deep/package.json": '{"name": "text, not a record"}',
        "z.jsonl": '{"text": "Z"}\n',
    }
    for name, text in files.items():
        path = workspace.root / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with tarfile.open(workspace.root / "tree.tar", "w") as archive:
        archive.add("tree", "tree")
    packed = gzip.compress((workspace.root / "tree.tar").read_bytes())
    (workspace.root / "tree.tar.gz").write_bytes(packed)
    return workspace.root / "tree"


@pytest.mark.parametrize("name", ["tree", "tree.tar", "tree.tar.gz"])
@pytest.mark.parametrize(
    ("reading", "wanted"),
    [
        (AS_USUAL, {"A", "B", "C", "D", '{"name": "text, not a record"}', "Z"}),
        (Reading(include=("*.py",)), {"A", "C", "D"}),
        (Reading(include=("*.py", "*.md"), exclude=("tests",)), {"A", "B", "C"}),
        (Reading(exclude=("tests/", "*.json*")), {"A", "B", "C"}),
        (Reading(include=("*deep/*.py",), exclude=("c.*",)), {"D"}),
        (Reading(include=("*.json",), field="name"), {"text, not a record"}),
    ],
)
def test_include_and_exclude_choose_files(
    tree: Path, name: str, reading: Reading, wanted: set[str]
) -> None:
    assert tree.is_dir()
    assert set(opened(name, reading)) == wanted


@pytest.mark.parametrize("name", ["tree", "tree.tar", "tree.tar.gz"])
def test_patterns_that_leave_nothing_say_so(tree: Path, name: str) -> None:
    assert tree.is_dir()
    with pytest.raises(BadData, match=rf"no files in .*{name}.*--include and --exclude"):
        opened(name, Reading(include=("*.rs",)))


def test_wishes_are_part_of_the_record(workspace: Workspace, tree: Path) -> None:
    reading = Reading(("*.json",), ("tests",), "record", "name", encoding="utf-8")
    (record,) = open_source(workspace, [str(tree)], reading).records
    assert record["include"] == ["*.json"]
    assert record["exclude"] == ["tests"]
    assert record["documents"] == "record"
    assert record["field"] == "name"
    assert record["encoding"] == "utf-8"
    assert record == json.loads(json.dumps(record))


def test_several_inputs_are_read_in_order_and_once(workspace: Workspace, tree: Path) -> None:
    (workspace.root / "x.jsonl").write_text('{"text": "X"}\n')
    inputs = ["x.jsonl", "tree/deep/c.py", "tree", "x.jsonl"]
    source = open_source(workspace, inputs, Reading(include=("*.py",)))
    assert documents(source) == ["X", "C", "A", "D"]
    assert [record["path"] for record in source.records] == [
        str(workspace.root / "x.jsonl"),
        str(tree / "deep" / "c.py"),
        str(tree),
    ]
    assert source.name == "x-and-2-more"


def test_records_of_a_file_without_a_suffix(workspace: Workspace) -> None:
    (workspace.root / "dump").write_bytes(jsonl_of(TEXTS))
    assert opened("dump", Reading(documents="record")) == UNIX
    assert opened("dump", Reading(documents="line"))[0].startswith('{"id": 1')


def test_a_pipe_is_an_input(llmc: Llmc) -> None:
    text = "".join(f"line {index} é\n" for index in range(200))
    flags = ["--tokenizer", "byte", "--json", "--documents", "line"]
    done = ok(llmc("tokenize", "-", *flags, stdin=text))
    made = json.loads(done.stdout)
    assert made["dataset"] == "stdin"
    assert made["source"][0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert made["text_bytes"] == len(text.encode()) - 200
    (llmc.workspace / "same.txt").write_text(text)
    same = json.loads(ok(llmc("tokenize", "same.txt", *flags)).stdout)
    assert same["train"] == made["train"]
    assert sorted(p.name for p in (llmc.workspace / "data").iterdir()) == ["same", "stdin"]


def test_a_packed_pipe_of_records(llmc: Llmc) -> None:
    packed = gzip.compress(jsonl_of(TEXTS * 10))
    flags = ["--tokenizer", "byte", "--json", "--documents", "record"]
    done = llmc.raw("tokenize", "-", *flags, stdin=packed)
    assert done.returncode == 0, done.stderr
    size = sum(len(text.encode()) for text in UNIX * 10)
    assert json.loads(done.stdout)["text_bytes"] == size


def test_an_empty_pipe_is_bad_data_and_leaves_nothing(llmc: Llmc) -> None:
    error = assert_one_sentence(llmc("tokenize", "-", "--tokenizer", "byte"), 1)
    assert "stdin is empty" in error
    assert list(llmc.workspace.iterdir()) == []


def test_the_flags_reach_the_reading(llmc: Llmc) -> None:
    folder = llmc.workspace / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"story": "one"}\n' * 30)
    (folder / "b.jsonl").write_text("not JSON")
    (folder / "c.txt").write_text("not wanted")
    flags = ["--include", "*.jsonl", "--exclude", "b*", "--field", "story"]
    done = ok(llmc("tokenize", "in", *flags, "--tokenizer", "byte", "--json"))
    assert json.loads(done.stdout)["text_bytes"] == 90
    error = assert_one_sentence(llmc("tokenize", "in/a.jsonl", "--tokenizer", "byte"), 1)
    assert "a.jsonl, line 1: no field 'text'" in error
    assert "there: 'story'" in error
    error = assert_one_sentence(llmc("tokenize", "in", "--documents", "lines"), 2)
    assert "did you mean 'line'?" in error


def test_a_web_page_becomes_its_text(workspace: Workspace) -> None:
    page = "<html><style>p {}</style><p>One <b>page</b></p><script>x()</script><p>more</p></html>"
    (workspace.root / "a.html").write_text(page)
    assert opened("a.html") == ["One page\n\nmore"]
    assert opened("a.html", Reading(documents="file")) == [page]
