"""Unpack archives without trusting them.

Only plain files and folders are made, and only below one new folder. A link inside the archive
becomes a copy of what it points to, so no name that is opened can lead elsewhere; hence tarfile's
own filters, which guard the making of links, have nothing to do here. Sizes are counted as the
bytes come, never taken from headers.
"""

from __future__ import annotations

import io
import lzma
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from llmc.errors import BadData
from llmc.fetch.compression import ALLOWANCE, CODECS, MOST_RATIO, TARS, Metered, decompressed
from llmc.kinds import DAMAGE, HEAD_BYTES, codec_of_bytes
from llmc.paths import umask
from llmc.units import megabytes

PACKED = (".zip", *CODECS, *TARS)
SUFFIXES = (".tar", *PACKED)
CHUNK = 1 << 18
HEADER_LIMIT = 1 << 20  # a long name or a table of attributes; tarfile keeps it in memory

BROKEN = (
    *DAMAGE,
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error),
    NotImplementedError,  # a compression that this Python does not know
)
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class DamagedTar(ValueError):
    """A tar header that is damaged, missing, or too large to be honest."""


class StrictHeader(tarfile.TarInfo):
    """A tar header; tarfile alone takes a damaged or missing one after the first for the end."""

    extended = "a header"  # what one of a name or attribute is called in a message

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictHeader:
        """Return the header in a block.

        Raises:
            DamagedTar: it is none.
        """
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the empty block that every tar ends with
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise DamagedTar("its end is missing") from error
        except tarfile.HeaderError as error:
            raise DamagedTar(str(error)) from error
        if header.type in EXTENDED and header.size > HEADER_LIMIT:
            raise DamagedTar(f"{cls.extended} of {header.size:,} bytes")
        return header


class _Told(Metered):
    """A stream that tells how many bytes are read from it."""

    def __init__(self, stream: BinaryIO, tell: Callable[[int], None]) -> None:
        super().__init__(stream)
        self._tell = tell

    def readinto(self, buffer: Any) -> int:
        step = super().readinto(buffer)
        self._tell(step)
        return step


@dataclass(frozen=True)
class Limits:
    """The limits of an unpacked archive."""

    total_bytes: int = 1 << 40  # the bytes of all files together
    members: int = 1_000_000  # the number of files, folders and links
    ratio: int = MOST_RATIO  # unpacked bytes per byte of the archive
    # Bytes that are allowed whatever the ratio: small files of zeros are harmless.
    allowance: int = ALLOWANCE


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
        files = _Unpacking(archive, scratch, limits).run()
        scratch.chmod(0o777 & ~umask())
        scratch.replace(folder)  # over an empty folder at most
        return [folder / name for name in files]
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
        self.most_members = limits.members
        self.size = archive.stat().st_size
        self.most_bytes = min(limits.total_bytes, max(limits.allowance, self.size * limits.ratio))
        self._files: dict[str, None] = {}
        self._links: list[tuple[str, str]] = []
        self._members = 0
        self._bytes = 0

    def run(self) -> list[str]:
        """Write all files, then copies for the links; return their names."""
        with self.archive.open("rb") as file:
            if zipfile.is_zipfile(file):
                self._unzip()
            else:
                file.seek(0)
                with _decompressed(file, self.archive) as plain:
                    self._untar_or_copy(io.BufferedReader(_Told(plain, self._count), CHUNK))
        for name, target in self._links:
            if target not in self._files:
                raise self._refused(f"the link {name!r} leads to {target!r}, no file in it")
            with (self.folder / target).open("rb") as source:
                self._write(name, source)
        return list(self._files)

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
                    self._link(name, posixpath.dirname(name), target)
                elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                    with zipped.open(member) as file:
                        self._write(name, file)
                else:
                    raise self._refused(f"{name!r} is a device or a pipe")

    def _untar_or_copy(self, plain: io.BufferedReader) -> None:
        """Unpack a tar, or write the one file; all its bytes are counted, headers and gaps too."""
        name = self.archive.name.lower()
        is_tar = (
            plain.peek(tarfile.BLOCKSIZE)[257:262] == b"ustar"
            or name.endswith((".tar", *TARS))
            or ".tar" in PurePosixPath(name).suffixes[-2:]
        )
        if not is_tar and not is_archive(name):
            raise BadData(f"{self.archive} is not an archive: name a .zip, .tar, .gz or .zst file")
        if not is_tar:
            self._write(self._counted(self.archive.stem), plain, count=False)
            return
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=StrictHeader) as tar:
            while (member := tar.next()) is not None:
                self._untar(tar, member)
                tar.members = []  # type: ignore[attr-defined] # tarfile keeps every header
        while plain.read(CHUNK):
            pass  # to the checksum at the end

    def _untar(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = self._counted(member.name)
        if member.isdir():
            self._make_folder(name)
        elif member.issym():
            self._link(name, posixpath.dirname(name), member.linkname)
        elif member.islnk():
            self._link(name, "", member.linkname)
        elif member.isreg() and (file := tar.extractfile(member)) is not None:
            if member.size > self.most_bytes:
                raise self._too_large()
            # The holes of a sparse file are not in the stream, so they are counted here.
            self._write(name, file, count=member.issparse())
        else:
            raise self._refused(f"{name!r} is a device or a pipe")

    def _counted(self, name: str) -> str:
        """Count a member; return its name without ``.`` and double slashes."""
        self._members += 1
        if self._members > self.most_members:
            raise self._refused(f"it holds more than {self.most_members:,} members")
        plain = name.replace("\\", "/")
        if (
            not name
            or "\0" in name
            or plain.startswith("/")
            or ".." in plain.split("/")
            or re.match("[A-Za-z]:", plain)
        ):
            raise self._refused(f"{name!r} leads out of its folder")
        return str(PurePosixPath(name))

    def _link(self, name: str, base: str, target: str) -> None:
        """Remember a link; ``..`` is resolved by text, because no link is ever made."""
        resolved = posixpath.normpath(posixpath.join(base, target))
        if resolved.split("/")[0] in ("", ".."):
            raise self._refused(f"the link {name!r} to {target!r} leads out of its folder")
        self._links.append((name, resolved))

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
        self._files[name] = None

    def _count(self, step: int) -> None:
        self._bytes += step
        if self._bytes > self.most_bytes:
            raise self._too_large()

    def _too_large(self) -> BadData:
        size, most = megabytes(self.size), megabytes(self.most_bytes)
        return self._refused(f"its {size} become more than {most}")

    def _refused(self, why: str) -> BadData:
        return BadData(f"{self.archive} is not safe to unpack: {why}; nothing was unpacked")


def _decompressed(file: BinaryIO, archive: Path) -> BinaryIO:
    """Return the plain stream of a file, by its first bytes."""
    codec = codec_of_bytes(file.read(HEAD_BYTES))
    file.seek(0)
    if not codec and archive.name.lower().endswith(PACKED):
        raise BadData(f"{archive} is not what its name says; nothing was unpacked: get it again")
    return decompressed(file, codec, any_ratio=True)  # all that comes out is counted
