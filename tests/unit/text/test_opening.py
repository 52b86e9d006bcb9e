"""The same documents from every form a text can come in, and one sentence for every fault."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import pickle
import random
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text import documents as boundaries
from llmc.text import parts as pieces
from llmc.text.source import AS_USUAL, Reading, Source, documents_of, open_source
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import ok

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXTS = [
    "def f():\n    return 'é'\n",
    "日本語\r\n\r\nzwei\n\n\n",
    "# 🙂 " * 50 + "\n",
    "x = '<|endoftext|>'\n",
    "last, without an end of line",
]
UNIX = [text.replace("\r\n", "\n") for text in TEXTS]
# zstd finds damage where it keeps a checksum, as its command line does.
CHECKED: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: zstd.compress(data, options=CHECKED),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def documents(source: Source) -> list[str]:
    """Return the documents, of parts that went through pickle as to another process."""
    return list(documents_of(pickle.loads(pickle.dumps(source.parts))))


def opened(name: str | Path, reading: Reading = AS_USUAL) -> list[str]:
    return documents(open_source(Workspace(Path()), [str(name)], reading))


def tar_of(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w", format=form) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stored.getvalue()


def jsonl_of(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def parquet_of(texts: list[str]) -> bytes:
    pa = pytest.importorskip("pyarrow")
    stored = io.BytesIO()
    table = pa.table({"id": range(len(texts)), "text": texts})
    pytest.importorskip("pyarrow.parquet").write_table(table, stored, row_group_size=2)
    return stored.getvalue()


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


def test_members_that_are_no_text_are_passed_over(workspace: Workspace) -> None:
    files = {"a.txt": b"A", "b.png": b"\x89PNG\0", "c.txt": b"caf\xe9", "d": b"", "e.tar": b"x"}
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "a.txt")):
            link = tarfile.TarInfo("link.txt")
            link.type, link.linkname = kind, target
            archive.addfile(link)
        for name in ("../out.txt", "/abs.txt"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"OUT"))
    (workspace.root / "x.tar").write_bytes(stored.getvalue())
    (workspace.root / "x.tgz").write_bytes(gzip.compress(stored.getvalue()))
    before = sorted(workspace.root.rglob("*"))
    assert opened("x.tar") == opened("x.tgz") == ["A", "OUT", "OUT"]
    assert sorted(workspace.root.rglob("*")) == before
    assert not (workspace.root.parent / "out.txt").exists()


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("inner", ["x.txt", "x.jsonl", "x.json", "x.tar", "x.parquet"])
def test_cut_short_and_damaged(workspace: Workspace, inner: str, suffix: str) -> None:
    noise = random.Random(1).randbytes(60_000).hex()
    data = {
        "x.txt": noise.encode(),
        "x.jsonl": jsonl_of([noise]),
        "x.json": jsonl_of([noise]),
        "x.tar": tar_of({"a.txt": noise.encode()}),
        "x.parquet": parquet_of([noise]),
    }[inner]
    packed = COMPRESSORS[suffix](data)
    path = workspace.root / f"{inner}{suffix}"
    for damaged, words in {
        packed[:-100]: "is cut short",
        packed[: len(packed) // 2]: "is cut short",
        b"plain text, not packed": f"is not {suffix[1:]} data, or damaged",
        packed[:1000]
        + bytes(5000)
        + packed[6000:]: "is cut short|is not (.* data|a tar), or damaged",
    }.items():
        path.write_bytes(damaged)
        with pytest.raises(BadData, match=rf"{path.name}(:a\.txt)? ({words})"):
            opened(path)


def test_a_damaged_tar_does_not_end_early_in_silence(workspace: Workspace) -> None:
    whole = tar_of({f"{index}.txt": b"text" * 200 for index in range(5)})
    second = whole.index(b"1.txt")
    path = workspace.root / "x.tar"
    for damaged in (
        whole[:second] + b"\xff" + whole[second + 1 :],
        whole[: second + 100],
        whole[: second + 600],
        b"not a tar" * 200,
        b"x",
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadData, match=r"x\.tar(:1\.txt)? is (not a tar|cut short)"):
            opened(path)
        path.with_suffix(".tgz").write_bytes(gzip.compress(damaged))
        with pytest.raises(BadData, match=r"x\.tgz(:1\.txt)? is (not a tar|cut short)"):
            opened(path.with_suffix(".tgz"))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_gigabytes_is_refused(workspace: Workspace, kind: bytes) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 1 << 33
    trap = member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)
    (workspace.root / "x.tgz").write_bytes(gzip.compress(trap))
    with pytest.raises(BadData, match=r"x\.tgz is not a tar, or damaged \(a name .* bytes\)"):
        opened("x.tgz")


def test_a_bomb_does_not_exhaust_memory(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.root / "x.txt.zst").write_bytes(zstd.compress(b"a" * (200 << 20)))
    monkeypatch.setattr(boundaries, "MAX_DOCUMENT", 4 << 20)
    source = open_source(workspace, ["x.txt.zst"])
    tracemalloc.start()
    try:
        with pytest.raises(BadData, match=r"x\.txt\.zst holds a document of more than"):
            documents(source)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_long_file_takes_the_memory_of_a_chunk(workspace: Workspace) -> None:
    text = ("Once upon a time there was a text.\n" * 100 + "<|endoftext|>\n") * 8000
    (workspace.root / "s.txt").write_text(text)
    (workspace.root / "s.txt.gz").write_bytes(gzip.compress(text.encode(), 1))
    for name in ("s.txt", "s.txt.gz"):
        tracemalloc.start()
        count = sum(1 for _ in documents_of(open_source(workspace, [name]).parts))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 8000
        assert peak < 12 << 20 < len(text) // 2


def test_what_is_not_utf8_is_named_by_its_byte(workspace: Workspace) -> None:
    text = "é".encode() * ((1 << 20) - 1) + b"a"  # a character lies across the chunks
    for name, data, place in (
        ("a.txt", text + b"\xe9", f"byte {len(text):,} is 0xe9"),
        ("b.txt", text + b"a\xc3", f"byte {len(text) + 1:,} is 0xc3"),
        ("c.txt", b"ab\0", "byte 2 is 0"),
    ):
        (workspace.root / name).write_bytes(data)
        (workspace.root / f"{name}.gz").write_bytes(gzip.compress(data))
        with pytest.raises(BadData, match=rf"{name} is not UTF-8 text \({place}\)"):
            open_source(workspace, [name])
        with pytest.raises(BadData, match=rf"{name}\.gz is not UTF-8 text \({place}\)"):
            opened(f"{name}.gz")


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl", "empty.gz"])
def test_an_empty_file_is_named(workspace: Workspace, name: str) -> None:
    (workspace.root / name).touch()
    with pytest.raises(BadData, match=f"is too little text: {name} is empty"):
        open_source(workspace, [name])


def test_parquet_holds_records_only(workspace: Workspace) -> None:
    (workspace.root / "x.parquet").write_bytes(parquet_of(TEXTS))
    with pytest.raises(Usage, match="'line'"):
        open_source(workspace, ["x.parquet"], Reading(documents="line"))
    with pytest.raises(BadData, match=r"no column 'story'.*'id', 'text'"):
        open_source(workspace, ["x.parquet"], Reading(field="story"))


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


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.txt", POINTER, "git lfs pull"),
        ("a.parquet", POINTER, "git lfs pull"),
        ("a.jsonl", "<!doctype html><p>Not found", "web page"),
        ("a.parquet", "<html>", "web page"),
    ],
)
def test_a_file_that_stands_in_for_the_real_one_is_named(
    tmp_path: Path, name: str, content: str, word: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadData, match=word) as caught:
        open_source(Workspace(tmp_path), [str(path)])
    assert str(path) in str(caught.value)


def test_a_web_page_becomes_its_text(workspace: Workspace) -> None:
    page = "<html><style>p {}</style><p>One <b>page</b></p><script>x()</script><p>more</p></html>"
    (workspace.root / "a.html").write_text(page)
    assert opened("a.html") == ["One page\n\nmore"]
    assert opened("a.html", Reading(documents="file")) == [page]
