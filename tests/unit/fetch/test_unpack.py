from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from llmc.errors import BadData
from llmc.fetch.unpack import is_archive, unpack
from tests.helpers.archives import found, member, refuse, tarred, zipped, zstd

TREE = {
    "a.txt": b"one\n",
    "folder/b.txt": b"two\n" * 5000,
    "folder/deeper/Größe 日本.txt": b"drei\n",
    "empty": b"",
    "l" * 200 + "/" + "n" * 100: b"a name for which a header has no room",
}

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.zst": zstd,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tars(tmp_path: Path, suffix: str, kind: int) -> None:
    path = tmp_path / f"x{suffix}"
    members = [member(name, data) for name, data in TREE.items()]
    members.insert(0, member("folder/", type=tarfile.DIRTYPE))
    path.write_bytes(COMPRESSIONS[suffix](tarred(*members, kind=kind)))
    files = unpack(path, tmp_path / "new" / "folder")
    assert [str(file.relative_to(tmp_path / "new" / "folder")) for file in files] == list(TREE)
    assert found(tmp_path / "new" / "folder") == TREE
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["folder"]
    with (
        tarfile.open(path)
        if suffix != ".tar.zst"
        else tarfile.open(fileobj=io.BytesIO(tarred(*members))) as tar
    ):
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later
            tar.extractall(tmp_path / "theirs", filter="data")
        else:
            tar.extractall(tmp_path / "theirs")
    assert found(tmp_path / "theirs") == TREE


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_zips(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zipped({"folder/": b"", **TREE}, method))
    files = unpack(path, tmp_path / "folder")
    assert found(tmp_path / "folder") == TREE
    assert len(files) == len(TREE)
    zipfile.ZipFile(path).extractall(tmp_path / "theirs")
    assert found(tmp_path / "theirs") == TREE


@pytest.mark.parametrize(
    ("name", "compress"),
    [("x.txt.gz", gzip.compress), ("x.txt.zst", zstd), ("x.txt.xz", lzma.compress)],
)
def test_single_files(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    data = os.urandom(1_000_000)
    # Two frames, as parallel compressors write them.
    (tmp_path / name).write_bytes(compress(data[:400_000]) + compress(data[400_000:]))
    (file,) = unpack(tmp_path / name, tmp_path / "folder")
    assert file == tmp_path / "folder" / "x.txt"
    assert file.read_bytes() == data


def test_names_of_archives() -> None:
    names = ("a.zip", "a.tar", "A.TGZ", "a.tar.gz", "a.txt.gz", "a.tar.zst", "a.jsonl.zst")
    assert all(is_archive(name) for name in names)
    assert not any(is_archive(name) for name in ("a.txt", "zip", "a.safetensors", "gz", "a.tar.d"))


def test_an_empty_folder_may_be_there_and_a_full_one_not(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"a": b"new"}))
    (tmp_path / "folder").mkdir()
    unpack(tmp_path / "x.zip", tmp_path / "folder")
    (tmp_path / "x.zip").write_bytes(zipped({"a": b"newer", "b": b""}))
    with pytest.raises(BadData, match=r"cannot unpack .* into .*not empty"):
        unpack(tmp_path / "x.zip", tmp_path / "folder")
    assert found(tmp_path / "folder") == {"a": b"new"}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x.gz", "x.zst", "x.tar.xz"])
def test_what_is_no_archive(tmp_path: Path, name: str) -> None:
    page = b"<html>Not Found</html>"
    (tmp_path / name).write_bytes(page)
    with pytest.raises(BadData, match="is not what its name says; nothing was unpacked"):
        unpack(tmp_path / name, tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"cannot read .*x\.zip: No such file"):
        unpack(tmp_path / "x.zip", tmp_path / "folder")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(BadData, match="is not an archive"):
        unpack(tmp_path / "x.txt", tmp_path / "folder")


def samples() -> dict[str, bytes]:
    rng = Random(1)
    files = {f"{i}/{'n' * i * 9}": rng.randbytes(700) for i in range(12)}
    plain = tarred(*(member(name, data) for name, data in files.items()))
    return {
        ".zip": zipped(files),
        ".tar": plain,
        ".tar.gz": gzip.compress(plain, mtime=0),
        ".tar.zst": zstd(plain),
        ".gz": gzip.compress(plain, mtime=0),
    }


@pytest.mark.parametrize("suffix", samples())
def test_what_is_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    data = samples()[suffix]
    whole = len(data) - (10_240 if suffix == ".tar" else 0)  # a tar ends with empty blocks
    for cut in {0, 1, 5, 100, whole // 3, whole // 2, whole - 600, whole - 5}:
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data[:cut])
        with pytest.raises(BadData):
            unpack(path, tmp_path / "folder")
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_tar_cut_between_two_files_is_refused(tmp_path: Path) -> None:
    data = tarred(member("a", b"1"), member("b", b"2"))
    refuse(tmp_path / "x.tar", data[:1024], "is broken")
    refuse(tmp_path / "x.tar", data[:2048], "is broken")


@pytest.mark.parametrize("suffix", samples())
def test_what_is_damaged_is_refused_or_stays_inside(tmp_path: Path, suffix: str) -> None:
    data = samples()[suffix]
    rng = Random(2)
    refused = 0
    for round_number in range(50):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 20))):
            # Half of the blows fall where tars and zips keep their headers.
            place = rng.randrange(len(data))
            damaged[place - place % 512 if rng.random() < 0.5 else place] = rng.randrange(256)
        inner = tmp_path / str(round_number)
        inner.mkdir()
        (inner / f"x{suffix}").write_bytes(damaged)
        try:
            unpack(inner / f"x{suffix}", inner / "folder")
        except BadData:
            refused += 1
            assert len(list(inner.iterdir())) == 1
    assert refused > 8
    assert {path.name for path in tmp_path.iterdir()} == {str(i) for i in range(50)}
