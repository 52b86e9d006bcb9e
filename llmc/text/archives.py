"""Read the files of a tar or zip without unpacking it, so that no path in it is ever used."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

from llmc.errors import BadData
from llmc.fetch.compression import check_growth, decompressed
from llmc.fetch.unpack import DamagedTar, StrictHeader
from llmc.text.files import explained

BLOCKS = 1 << 18


class _Header(StrictHeader):
    extended = "a name or attribute"


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size: int
    content: BinaryIO | None  # None: it cannot be read
    offset: int = 0  # of its bytes in an uncompressed tar
    fault: str = ""  # why it cannot be read, as a sentence without its subject


def tar_members(
    stream: BinaryIO, name: str, codec: str, *, any_ratio: bool = False
) -> Iterator[Member]:
    """Yield the members of a tar from front to back, without folders.

    In a compressed tar, each file must be read before the next one.

    Raises:
        BadData: it is not a tar, damaged or cut short, or grows more than text does, without
            ``any_ratio``.
    """
    mode: Literal["r|", "r:"] = "r|" if codec else "r:"
    with _no_tar_explained(name, codec):
        plain = decompressed(stream, codec, name, any_ratio=any_ratio)
        archive = tarfile.open(fileobj=plain, mode=mode, bufsize=BLOCKS, tarinfo=_Header)  # noqa: SIM115
    with archive:
        while True:
            with _no_tar_explained(name, codec):
                member = archive.next()
            if member is None:
                return
            archive.members = []  # type: ignore[attr-defined]  # it would keep every header
            if member.isdir():
                continue
            if member.isreg() and not member.issparse():
                content = cast(BinaryIO, archive.extractfile(member))
                yield Member(member.name, member.size, content, member.offset_data)
            else:
                fault = "is a link" if member.issym() or member.islnk() else "is not a plain file"
                yield Member(member.name, 0, None, fault=fault)


def zip_members(stream: BinaryIO, name: str, *, any_ratio: bool = False) -> Iterator[Member]:
    """Yield the members of a zip file in its order, without folders; each is read at once.

    Raises:
        BadData: it is not a zip, or damaged, or grows more than text does, without ``any_ratio``.
    """
    with explained(name, "zip"):
        archive = zipfile.ZipFile(stream)
    # No member gives more bytes than the directory says: zipfile stops there.
    plain = sum(member.file_size for member in archive.infolist())
    check_growth(name, stream.seek(0, 2), plain, any_ratio=any_ratio)
    with archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                yield Member(member.filename, 0, None, fault="is locked by a password")
            elif stat.S_ISLNK(member.external_attr >> 16):
                yield Member(member.filename, 0, None, fault="is a link")
            else:
                yield from _opened_member(archive, member, name)


def _opened_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str
) -> Iterator[Member]:
    with explained(f"{name}:{member.filename}", "zip"):
        try:
            content = archive.open(member)
        except NotImplementedError as error:  # a compression that this Python does not know
            yield Member(member.filename, 0, None, fault=f"cannot be unpacked ({error})")
            return
    with content:
        yield Member(member.filename, member.file_size, cast(BinaryIO, content))


@contextmanager
def _no_tar_explained(name: str, codec: str) -> Iterator[None]:
    with explained(name, codec):
        try:
            yield
        except (tarfile.TarError, DamagedTar) as error:
            if "unexpected end of data" in str(error):
                raise BadData(f"{name} is cut short: get it again") from error
            raise BadData(
                f"{name} is not a tar, or damaged ({error}): get it again, or rename it"
            ) from error
