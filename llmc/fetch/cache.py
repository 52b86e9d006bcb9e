"""The cache of downloads: whole files, and parts that a download can resume.

``downloads/`` in the cache folder holds for every file, under its key:

    KEY             the whole file, read-only: workspaces hold hard links to it
    KEY.json        where it came from
    KEY.part        the part that has arrived
    KEY.part.json   where it came from, and the ETag that shows whether the file has changed
    KEY.lock        held by the process that downloads; the system releases it when that ends

The key is the hash of the content where it is known beforehand, so that any mirror can continue
what another began; otherwise it is a hash of the address.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.errors import BadData
from llmc.parsing import object_in
from llmc.paths import cache_dir, write_json
from llmc.report import Report


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Pin:
    """The hash that a file must have, in hexadecimal.

    SHA-256 (64 digits), or git's hash, which the hub gives for small files: the SHA-1 of a header
    with the size, then the content (40 digits).
    """

    value: str

    @property
    def _is_sha256(self) -> bool:
        return len(self.value) == 64

    @property
    def key(self) -> str:
        """The file's key in the cache."""
        return f"{'sha256' if self._is_sha256 else 'git'}-{self.value}"

    @property
    def name(self) -> str:
        """How messages call the hash."""
        return "SHA-256" if self._is_sha256 else "git hash"

    def of(self, path: Path) -> str:
        """Return the hash of this kind that a file has."""
        if self._is_sha256:
            return file_sha256(path)
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: digest).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One file's place in the cache. What writes there raises BadData where it cannot."""

    key: str

    @property
    def path(self) -> Path:
        """The whole file."""
        return cache_dir() / "downloads" / self.key

    @property
    def part(self) -> Path:
        """The part that has arrived."""
        return self._beside(".part")

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.key + suffix)

    def holds(self, pin: Pin | None) -> bool:
        """Return whether the file is there and has the hash ``pin``, where one is known."""
        return self.path.is_file() and (pin is None or pin.of(self.path) == pin.value)

    def part_size(self) -> int:
        """Return how many bytes have arrived."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def origin(self) -> dict[str, Any]:
        """Return where the whole file came from; empty where that is not known."""
        return object_in(self._beside(".json"))

    def part_origin(self) -> dict[str, Any]:
        """Return where the part came from; empty where that is not known."""
        return object_in(self._beside(".part.json"))

    def record(self, origin: dict[str, Any]) -> None:
        """Write where the whole file came from."""
        write_json(self._beside(".json"), origin)

    def begin_part(self, origin: dict[str, Any]) -> None:
        """Drop any part and record where a new one comes from."""
        self.drop_part()
        write_json(self._beside(".part.json"), origin)

    def drop_part(self) -> None:
        """Remove the part."""
        self.part.unlink(missing_ok=True)
        self._beside(".part.json").unlink(missing_ok=True)

    def finish(self) -> None:
        """Make the part, which is verified, the whole file."""
        try:
            with self.part.open("rb") as file:
                os.fsync(file.fileno())
            self.part.chmod(0o444)  # writing into it would change it in all workspaces
            self.part.replace(self.path)
            with suppress(FileNotFoundError):
                self._beside(".part.json").replace(self._beside(".json"))
        except OSError as error:
            raise self._unwritable(error) from error

    @contextmanager
    def locked(self, name: str, report: Report) -> Iterator[bool]:
        """Lock the file, called ``name`` in notes; yield whether another process just brought it.

        Raises:
            BadData: the cache cannot be written.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._beside(".lock"), mode=0o664)
            before = self._version()
            try:
                lock.acquire(timeout=0)
            except Timeout:
                report.note(f"another process is fetching {name}: waiting for it")
                lock.acquire()
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield self._version() not in (None, before)
        finally:
            lock.release()

    def _version(self) -> tuple[int, int] | None:
        with suppress(OSError):
            stat = self.path.stat()
            return stat.st_ino, stat.st_mtime_ns
        return None

    def _unwritable(self, error: OSError) -> BadData:
        return BadData(
            f"cannot write in the cache, {self.path.parent}: {error.strerror or error}; "
            "set LLMC_CACHE_DIR to another folder"
        )
