"""Unpack archives without trusting them.

Only plain files and folders are made, and only below one new folder. A link inside the archive
becomes a copy of what it points to, so no name that is opened can lead elsewhere; hence tarfile's
own filters, which guard the making of links, have nothing to do here. Sizes are counted as the
bytes come, never taken from headers.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from llmc.errors import BadData
from llmc.fetch.compression import CODECS, TARS, decompressed
from llmc.kinds import HEAD_BYTES, codec_of_bytes
from llmc.paths import umask
from llmc.units import megabytes

PACKED = (".zip", *CODECS, *TARS)
SUFFIXES = (".tar", *PACKED)
CHUNK = 1 << 18
HEADER_LIMIT = 1 << 20  # a name or a table of attributes; tarfile reads it in one piece

BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    struct.error,
    NotImplementedError,  # a compression that this Python does not know
    RecursionError,  # headers of headers
    ValueError,
    OverflowError,
)


class _Damaged(ValueError):
    """A header in the middle of a tar is damaged."""


class _Header(tarfile.TarInfo):
    """A tar header; tarfile alone takes a damaged or missing one after the first for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the empty block that every tar ends with
        except tarfile.HeaderError as error:
            raise _Damaged(str(error)) from error


@dataclass(frozen=True)
class Limits:
    """The limits of an unpacked archive.

    Attributes:
        total_bytes: the bytes of all files together.
        members: the number of files, folders and links.
        ratio: unpacked bytes per byte of the archive. Text compresses by 3 to 20.
        allowance: bytes that are allowed whatever the ratio: small files of zeros are harmless.
    """

    total_bytes: int = 1 << 40
    members: int = 1_000_000
    ratio: int = 200
    allowance: int = 64 << 20


LIMITS = Limits()


def is_archive(name: str) -> bool:
    """Return whether :func:`unpack` opens a file of this name."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, *, limits: Limits = LIMITS) -> list[Path]:
    """Unpack ``archive`` into the new folder ``folder``: all of it, or nothing.

    Zip files, and tar files, also compressed by gzip, zstd, bzip2 or xz; a file that is only
    compressed loses the last suffix of its name. Owners, modes and times are not restored.

    Returns: the files, in the archive's order.

    Raises:
        BadData: it is not such an archive or is broken, a member would lie outside ``folder`` or is
            not a file, it exceeds ``limits``, ``folder`` is not empty, or the disk is full.
            ``folder`` is unchanged.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)
        )
    except OSError as error:
        raise BadData(f"cannot write {folder}: {error.strerror}; choose another place") from error
    try:
        unpacking = _Unpacking(archive, scratch, limits)
        unpacking.run()
        scratch.chmod(0o777 & ~umask())
        scratch.replace(folder)  # over an empty folder at most
        return [folder / name for name in unpacking.files]
    except OSError as error:
        if str(error.filename) == str(archive):
            raise BadData(f"cannot read {archive}: {error.strerror}; name another") from error
        if error.errno is None:  # a decompressor's
            raise _broken(archive, error) from error
        raise BadData(
            f"cannot unpack {archive} into {folder}: {error.strerror}; nothing was unpacked"
        ) from error
    except Exception as error:
        if isinstance(error, BROKEN) or type(error).__name__ == "ZstdError":
            raise _broken(archive, error) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _broken(archive: Path, error: Exception) -> BadData:
    kind = type(error).__name__
    return BadData(f"{archive} is broken ({kind}: {error}); nothing was unpacked: get it again")


class _Unpacking:
    """One archive that is unpacked into a temporary folder."""

    def __init__(self, archive: Path, folder: Path, limits: Limits) -> None:
        self.archive = archive
        self.folder = folder
        self.limits = limits
        self.files: dict[str, None] = {}
        self._links: list[tuple[str, str]] = []
        self._members = 0
        self._bytes = 0
        size = archive.stat().st_size
        self.most = min(limits.total_bytes, max(limits.allowance, size * limits.ratio))

    def run(self) -> None:
        """Write all files, then copies for the links."""
        with self.archive.open("rb") as file:
            if zipfile.is_zipfile(file):
                self._unzip()
            else:
                file.seek(0)
                with closing(_decompressed(file, self.archive)) as plain:
                    self._untar_or_copy(plain)
        for name, target in self._links:
            if target not in self.files:
                raise self._refused(f"the link {name!r} leads to {target!r}, no file in it")
            with (self.folder / target).open("rb") as source:
                self._write(name, source)

    def _unzip(self) -> None:
        with zipfile.ZipFile(self.archive) as zipped:
            for member in zipped.infolist():
                mode = member.external_attr >> 16
                if member.flag_bits & 1:
                    raise self._refused(f"{member.filename!r} is encrypted")
                # orig_filename: zipfile cuts names at a NUL.
                name = self._counted(member.orig_filename)
                if member.is_dir():
                    self._make_folder(name)
                elif stat.S_ISLNK(mode):
                    with zipped.open(member) as file:
                        target = file.read(HEADER_LIMIT).decode()
                    self._link(name, PurePosixPath(name).parent / target, target)
                elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                    with zipped.open(member) as file:
                        self._write(name, file)
                else:
                    raise self._refused(f"{name!r} is a device or a pipe")

    def _untar_or_copy(self, plain: BinaryIO) -> None:
        bounded = _Bounded(plain, self._count)
        start = bounded.peek(tarfile.BLOCKSIZE)
        name = self.archive.name.lower()
        suffixes = PurePosixPath(name).suffixes
        is_tar = (
            start[257:262] == b"ustar" or name.endswith((".tar", *TARS)) or ".tar" in suffixes[-2:]
        )
        if is_tar:
            # Bytes are counted as they leave the compressed stream, including headers and gaps.
            with tarfile.open(
                fileobj=cast("IO[bytes]", bounded), mode="r:", tarinfo=_Header
            ) as tar:
                while (member := tar.next()) is not None:
                    self._untar(tar, member)
                    # tarfile would keep every header in memory.
                    tar.members = []  # type: ignore[attr-defined]
            while bounded.read(CHUNK):
                pass  # to the checksum at the end
            return
        if not is_archive(name):
            raise BadData(f"{self.archive} is no archive: name a .zip, .tar, .gz or .zst file")
        self._write(self._counted(self.archive.stem), cast("IO[bytes]", bounded), count=False)

    def _untar(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = self._counted(member.name)
        if member.isdir():
            self._make_folder(name)
        elif member.issym():
            self._link(name, PurePosixPath(name).parent / member.linkname, member.linkname)
        elif member.islnk():
            self._link(name, PurePosixPath(member.linkname), member.linkname)
        elif member.isreg():
            file = tar.extractfile(member)
            if file is None:
                raise self._refused(f"{name!r} has no content")
            # The holes of a sparse file are not in the stream, so they are counted here.
            self._write(name, file, count=member.issparse())
        else:
            raise self._refused(f"{name!r} is a device or a pipe")

    def _counted(self, name: str) -> str:
        """Count a member and return its name, checked."""
        self._members += 1
        if self._members > self.limits.members:
            raise self._refused(f"it holds more than {self.limits.members:,} members")
        return self._inside(name, name)

    def _inside(self, name: str, shown: str) -> str:
        """Return ``name`` without ``.`` and double slashes.

        Raises:
            BadData: it leads out of the folder.
        """
        plain = name.replace("\\", "/")
        parts = plain.split("/")
        if (
            not name
            or "\0" in name
            or plain.startswith("/")
            or ".." in parts
            or re.match("[A-Za-z]:", plain)
        ):
            raise self._refused(f"{shown!r} leads out of its folder")
        return str(PurePosixPath(name))

    def _link(self, name: str, target: PurePosixPath, shown: str) -> None:
        """Remember a link; ``..`` is resolved by text, because no link is ever made."""
        parts: list[str] = []
        if target.is_absolute() or PurePosixPath(shown).is_absolute():
            raise self._refused(f"the link {name!r} to {shown!r} leads out of its folder")
        for part in target.parts:
            if part != "..":
                parts.append(part)
            elif not parts:
                raise self._refused(f"the link {name!r} to {shown!r} leads out of its folder")
            else:
                parts.pop()
        self._links.append((name, "/".join(parts)))

    def _make_folder(self, name: str) -> None:
        (self.folder / name).mkdir(parents=True, exist_ok=True)

    def _write(self, name: str, source: IO[bytes], *, count: bool = True) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            out = path.open("xb")
        except FileExistsError:
            raise self._refused(f"it holds {name!r} twice") from None
        with out:
            while chunk := source.read(CHUNK):
                if count:
                    self._count(len(chunk))
                out.write(chunk)
        self.files[name] = None

    def _count(self, step: int) -> None:
        self._bytes += step
        if self._bytes > self.most:
            raise self._refused(
                f"its {megabytes(self.archive.stat().st_size)} become more than "
                f"{megabytes(self.most)}"
            )

    def _refused(self, why: str) -> BadData:
        return BadData(f"{self.archive} is not safe to unpack: {why}; nothing was unpacked")


class _Bounded:
    """A stream for tarfile that reads forwards only and counts its bytes."""

    def __init__(self, plain: BinaryIO, count: Callable[[int], None]) -> None:
        self._plain = plain
        self._count = count
        self._ahead = b""
        self._position = 0

    def peek(self, size: int) -> bytes:
        """Return up to ``size`` bytes that will be read next."""
        while len(self._ahead) < size and (more := self._plain.read(size - len(self._ahead))):
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, fewer at the end only."""
        if not 0 <= size <= HEADER_LIMIT:
            raise ValueError(f"a header of {size:,} bytes")
        pieces = [self._ahead[:size]]
        self._ahead = self._ahead[size:]
        missing = size - len(pieces[0])
        while missing and (piece := self._plain.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._position += len(data)
        self._count(len(data))
        return data

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position

    def seek(self, position: int) -> int:
        """Read on to ``position``."""
        if position < self._position:
            raise ValueError("an offset points backwards")
        while self._position < position and self.read(min(CHUNK, position - self._position)):
            pass
        return self._position


def _decompressed(file: BinaryIO, archive: Path) -> BinaryIO:
    """Return the plain stream of a file, by its first bytes."""
    codec = codec_of_bytes(file.read(HEAD_BYTES))
    file.seek(0)
    if not codec and archive.name.lower().endswith(PACKED):
        raise BadData(f"{archive} is not what its name says; nothing was unpacked: get it again")
    return decompressed(file, codec)
