"""Damaged, empty, misnamed and oversized input: one sentence for every fault."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text import documents as boundaries
from llmc.text.source import Reading, documents_of, open_source
from tests.helpers.texts import COMPRESSORS, TEXTS, documents, jsonl_of, opened, parquet_of, tar_of


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
        whole[:second],  # between two files
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
    (workspace.root / "x.txt.zst").write_bytes(COMPRESSORS[".zst"](b"a" * (200 << 20)))
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
