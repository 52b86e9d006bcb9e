"""No archive writes outside its folder, makes a link or a device, or fills the disk."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.fetch.unpack import LIMITS, unpack
from tests.helpers.archives import found, member, refuse, tarred, zipped, zstd

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
