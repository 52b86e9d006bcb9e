"""Read the files of a tar without unpacking it, so that no path in it is ever used."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal, cast

from llmc.errors import BadData
from llmc.fetch.compression import decompressed
from llmc.text.files import explained

# tarfile reads a long name or a table of attributes at once; a larger one is an attack.
MAX_HEADER = 1 << 20
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
BLOCKS = 1 << 18


class _Damaged(Exception):
    pass


class _Header(tarfile.TarInfo):
    """A tar header; tarfile alone takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            member = super().frombuf(buf, encoding, errors)
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise _Damaged(str(error)) from error
        if member.type in HEADERS and member.size > MAX_HEADER:
            raise _Damaged(f"a name or attribute of {member.size:,} bytes")
        return member


def tar_members(
    stream: BinaryIO, name: str, codec: str
) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Yield the files of a tar from front to back, without links, devices and sparse files.

    In a compressed tar, each file must be read before the next one.

    Raises:
        BadData: it is not a tar, damaged or cut short.
    """
    mode: Literal["r|", "r:"] = "r|" if codec else "r:"
    with _no_tar_explained(name, codec):
        plain = decompressed(stream, codec)
        archive = tarfile.open(fileobj=plain, mode=mode, bufsize=BLOCKS, tarinfo=_Header)  # noqa: SIM115
    with archive:
        while True:
            with _no_tar_explained(name, codec):
                member = archive.next()
            if member is None:
                return
            archive.members = []  # type: ignore[attr-defined]  # it would keep every header
            if member.isreg() and not member.issparse():
                yield member, cast(BinaryIO, archive.extractfile(member))


@contextmanager
def _no_tar_explained(name: str, codec: str) -> Iterator[None]:
    with explained(name, codec):
        try:
            yield
        except (tarfile.TarError, _Damaged) as error:
            if "unexpected end of data" in str(error):
                raise BadData(f"{name} is cut short: get it again") from error
            raise BadData(
                f"{name} is not a tar, or damaged ({error}): get it again, or rename it"
            ) from error
