"""Compressed files that grow more than text does are refused, in bounded memory, or asked for."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from llmc.errors import BadData, Usage
from llmc.fetch import compression
from llmc.fetch.compression import ZSTD, Bomb, decompressed
from llmc.paths import Workspace
from llmc.text.source import AS_USUAL, documents_of, open_source

zstd = importlib.import_module(ZSTD)
TIMES = replace(AS_USUAL, any_ratio=True)
BIG = b"a line of a bomb\n" * 100_000


def tar(codec: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{codec}") as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("a.txt")
        info.size = len(BIG)
        archive.addfile(info, io.BytesIO(BIG))
    return file.getvalue()


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, BIG)
    return file.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "a.txt.gz": lambda: gzip.compress(BIG),
    "a.txt.bz2": lambda: bz2.compress(BIG),
    "a.txt.xz": lambda: lzma.compress(BIG),
    "a.txt.zst": lambda: zstd.compress(BIG),
    "a.jsonl.gz": lambda: gzip.compress(b'{"text": "%s"}\n' % (b"a" * len(BIG))),
    "a.tar.gz": lambda: tar("gz"),
    "a.tar.xz": lambda: tar("xz"),
    "a.tar.bz2": lambda: tar("bz2"),
    "a.tar.zst": lambda: zstd.compress(tar("")),
    "a.zip": lambda: zipped("a.txt"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_unless_it_is_asked_for(
    name: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "ALLOWANCE", 1 << 18)
    path = workspace.root / name
    path.write_bytes(BOMBS[name]())
    with pytest.raises(BadData, match=r"grows to more than 200 times its size.*--any-ratio"):
        list(documents_of(open_source(workspace, [str(path)]).parts))
    source = open_source(workspace, [str(path)], TIMES)
    assert sum(map(len, documents_of(source.parts))) >= len(BIG) - 1
    assert "any_ratio" not in source.records[0]


def test_the_documents_of_a_bomb_of_word_are_not_opened(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "ALLOWANCE", 1 << 18)
    for name in ("a.docx", "a.epub"):
        (workspace.root / name).write_bytes(zipped("word/document.xml"))
        with pytest.raises(Bomb):
            open_source(workspace, [name])


def test_small_files_may_grow_as_they_like(workspace: Workspace) -> None:
    (workspace.root / "a.txt.gz").write_bytes(gzip.compress(BIG))
    assert len(next(documents_of(open_source(workspace, ["a.txt.gz"]).parts))) >= len(BIG) - 1


def test_the_flag_is_for_compressed_files(workspace: Workspace) -> None:
    (workspace.root / "a.txt").write_text("some text")
    with pytest.raises(Usage, match="--any-ratio"):
        open_source(workspace, ["a.txt"], TIMES)
    with pytest.raises(Usage, match="--any-ratio"):
        open_source(workspace, ["stdlib"], TIMES)


@pytest.mark.parametrize("padding", [b"", bytes(4), bytes(1 << 17)])
def test_xz_streams_may_follow_each_other(padding: bytes) -> None:
    data = lzma.compress(b"one ") + padding + lzma.compress(b"two") + padding
    assert decompressed(io.BytesIO(data), "xz").read() == b"one two"


def test_xz_takes_no_more_memory_than_it_should() -> None:
    data = bytearray(lzma.compress(b"x"))
    end = 12 + 4 * (data[12] + 1)  # of the block's header, of which byte 4 is the dictionary's size
    data[16] = 36  # 1 GiB
    data[end - 4 : end] = zlib.crc32(data[12 : end - 4]).to_bytes(4, "little")
    with pytest.raises(lzma.LZMAError, match="limit"):
        decompressed(io.BytesIO(data), "xz").read()
