from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest

from llmc.errors import BadData
from llmc.fetch.compression import ZSTD
from llmc.fetch.unpack import LIMITS, is_archive, unpack

TREE = {
    "a.txt": b"one\n",
    "folder/b.txt": b"two\n" * 5000,
    "folder/deeper/Größe 日本.txt": b"drei\n",
    "empty": b"",
    "l" * 200 + "/" + "n" * 100: b"a name for which a header has no room",
}


def zstd(data: bytes) -> bytes:
    return bytes(import_module(ZSTD).compress(data))


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.zst": zstd,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tarred(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def found(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refuse(path: Path, data: bytes, why: str, **limits: int) -> None:
    """Hold that an archive is refused for a reason, and that nothing is left."""
    path.write_bytes(data)
    folder = path.parent / "folder"
    with pytest.raises(BadData, match=why) as caught:
        unpack(path, folder, limits=replace(LIMITS, **limits))
    assert "nothing was unpacked" in str(caught.value)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


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


OUTSIDE = [
    "../evil",
    "a/../../evil",
    "a/../evil",
    "/evil",
    "//evil",
    "..",
    "\\evil",
    "..\\evil",
    "a\\..\\..\\evil",
    "C:\\evil",
    "C:evil",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_path_leads_outside(tmp_path: Path, name: str) -> None:
    refuse(tmp_path / "x.tar", tarred(member("ok", b"1"), member(name, b"2")), "leads out of its")
    (tmp_path / "x.tar").unlink()
    refuse(tmp_path / "x.zip", zipped({"ok": b"1", name: b"2"}), "leads out of its folder")


def test_a_nul_in_a_name_is_refused(tmp_path: Path) -> None:
    data = zipped({"good.txt": b"1"}).replace(b"good.txt", b"goo\0.txt")
    refuse(tmp_path / "x.zip", data, "leads out of its folder|is broken")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../etc/passwd"),
        (tarfile.SYMTYPE, ".."),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "../x"),
        (tarfile.LNKTYPE, "a/../../x"),
    ],
)
def test_no_link_leads_outside(tmp_path: Path, kind: bytes, target: str) -> None:
    link = member("folder/link", type=kind, linkname=target)
    if target == "..":
        link = member("link", type=kind, linkname=target)
    refuse(tmp_path / "x.tar", tarred(link, member("folder/link/x", b"2")), "leads out of its")


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    # Writing through such a link is how older archives escape.
    members = (
        member("d", type=tarfile.DIRTYPE),
        member("link", type=tarfile.SYMTYPE, linkname="d"),
        member("link/x", b"through the link"),
    )
    refuse(tmp_path / "x.tar", tarred(*members), "no file in it")


def test_a_chain_of_long_links_makes_none(tmp_path: Path) -> None:
    # Beyond the longest path, realpath stops resolving: what was checked is not what is opened.
    steps, name = "abcdefghijklmnop", "d" * 247
    members, path = [], ""
    for step in steps:
        members.append(member(path + name, type=tarfile.DIRTYPE))
        members.append(member(path + step, type=tarfile.SYMTYPE, linkname=name))
        path += f"{name}/"
    links = "/".join(steps)
    members.append(member(f"{links}/l", type=tarfile.SYMTYPE, linkname="../" * len(steps)))
    members.append(member("escape", type=tarfile.SYMTYPE, linkname=f"{links}/l/../../evil"))
    members.append(member("escape", b"evil"))
    refuse(tmp_path / "x.tar", tarred(*members), "leads out|no file in it|cannot unpack|twice")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_inside_becomes_a_copy(tmp_path: Path, kind: bytes) -> None:
    target = "../a.txt" if kind == tarfile.SYMTYPE else "a.txt"
    members = (
        member("folder/link", type=kind, linkname=target),  # before what it leads to
        member("a.txt", b"one"),
        member("folder/again", type=tarfile.LNKTYPE, linkname="folder/link"),
    )
    (tmp_path / "x.tar").write_bytes(tarred(*members))
    unpack(tmp_path / "x.tar", tmp_path / "folder")
    copies = {"a.txt": b"one", "folder/link": b"one", "folder/again": b"one"}
    assert found(tmp_path / "folder") == copies
    assert not any(path.is_symlink() for path in (tmp_path / "folder").rglob("*"))
    assert all((tmp_path / "folder" / name).stat().st_nlink == 1 for name in copies)


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a.txt"])
def test_links_in_zips(tmp_path: Path, target: str) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "one")
        archive.writestr(link, target)
    if target == "a.txt":
        (tmp_path / "x.zip").write_bytes(out.getvalue())
        unpack(tmp_path / "x.zip", tmp_path / "folder")
        assert found(tmp_path / "folder") == {"a.txt": b"one", "link": b"one"}
    else:
        refuse(tmp_path / "x.zip", out.getvalue(), "leads out of its folder")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_devices(tmp_path: Path, kind: bytes) -> None:
    refuse(tmp_path / "x.tar", tarred(member("dev", type=kind)), "is a device or a pipe")


def test_owners_and_modes_are_left(tmp_path: Path) -> None:
    data = tarred(member("tool", b"#!/bin/sh", mode=0o6777, uid=12345, gid=12345, mtime=1))
    (tmp_path / "x.tar").write_bytes(data)
    (file,) = unpack(tmp_path / "x.tar", tmp_path / "folder")
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert file.stat().st_uid == os.getuid()


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "x.tar", tarred(member("a", b"1"), member("./a", b"2")), "holds 'a' twice")
    (tmp_path / "x.tar").unlink()
    refuse(tmp_path / "x.tar", tarred(member("a", b"1"), member("a/b", b"2")), "cannot unpack")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.zst", ".txt.gz", ".txt.zst"])
def test_bombs(tmp_path: Path, suffix: str) -> None:
    zeros = bytes(3_000_000)  # from less than 15 KB
    if suffix == ".zip":
        data = zipped({"zeros": zeros})
    else:
        plain = tarred(member("zeros", zeros)) if suffix.startswith(".tar") else zeros
        data = zstd(plain) if suffix.endswith("zst") else gzip.compress(plain, 1)
    refuse(tmp_path / f"x{suffix}", data, r"become more than \d\.\d MB", allowance=1 << 20)


def test_what_is_small_may_be_of_zeros(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"zeros": bytes(5_000_000)}))
    unpack(tmp_path / "x.zip", tmp_path / "folder")
    assert (tmp_path / "folder" / "zeros").stat().st_size == 5_000_000


def test_limits(tmp_path: Path) -> None:
    data = zipped({str(index): b"x" * 100 for index in range(10)})
    refuse(tmp_path / "x.zip", data, "more than 9 members", members=9)
    refuse(tmp_path / "x.zip", data, "become more than", total_bytes=999)
    unpack(tmp_path / "x.zip", tmp_path / "y", limits=replace(LIMITS, members=10, total_bytes=1000))
    links = [member(f"l{i}", type=tarfile.LNKTYPE, linkname="a") for i in range(10)]
    (tmp_path / "x.zip").unlink()
    (tmp_path / "y").rename(tmp_path.parent / f"{tmp_path.name}-moved")
    # Copies count as well.
    refuse(
        tmp_path / "x.tar",
        tarred(member("a", bytes(5000)), *links),
        "become more than",
        total_bytes=40_000,
    )


def test_zips_whose_members_overlap(tmp_path: Path) -> None:
    # One member's bytes named by a thousand headers.
    data = bytearray(zipped({"a": bytes(1_000_000), "b": b""}, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    directory = bytes(data[start:])
    first = directory[: directory.index(b"PK\1\2", 4)]
    entries = b"".join(
        first[:28] + (4).to_bytes(2, "little") + first[30:46] + b"%04d" % i for i in range(1000)
    )
    end = bytearray(directory[directory.index(b"PK\5\6") :])
    end[8:12] = (1000).to_bytes(2, "little") * 2
    end[12:16] = len(entries).to_bytes(4, "little")
    refuse(tmp_path / "x.zip", bytes(data[:start]) + entries + end, "is broken|become more than")


def test_a_hole_in_a_file_counts(tmp_path: Path) -> None:
    info = tarfile.TarInfo("sparse")
    info.size = 512
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": str(10**12),
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": "0,512",
        "GNU.sparse.name": "sparse",
    }
    refuse(tmp_path / "x.tar", tarred((info, bytes(512))), "become more than")


def test_headers_that_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "x" * 5_000_000}
    refuse(tmp_path / "x.tar.gz", gzip.compress(tarred((info, b"")), 1), "a header of 5,")


def test_headers_of_headers(tmp_path: Path) -> None:
    header = tarred(member("x"), kind=tarfile.GNU_FORMAT)[:512]
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 2
    block = long.tobuf(tarfile.GNU_FORMAT) + b"y\0".ljust(512, b"\0")
    refuse(tmp_path / "x.tar", block * 5000 + header + bytes(1024), "is broken")


def test_encrypted_zips_are_named(tmp_path: Path) -> None:
    data = bytearray(zipped({"a": b"secret"}))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    refuse(tmp_path / "x.zip", bytes(data), "is encrypted")


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
    with pytest.raises(BadData, match="is no archive"):
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
