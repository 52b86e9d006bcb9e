"""Download one file over HTTP: an interrupted download resumes, a failed request is retried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmc.errors import BadData, Interrupted
from llmc.fetch.cache import Entry
from llmc.fetch.network import Passing, Remote, persistently, refused, unreachable
from llmc.kinds import HEAD_BYTES, kind_of_bytes
from llmc.paths import free_bytes
from llmc.report import Advance, Report
from llmc.units import megabytes

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 18
TIMEOUT_S = (10, 30)  # to connect, and between two bytes
WEB_PAGES = (".html", ".htm", ".xhtml")
MAKE_ROOM = "free some space, or set LLMC_CACHE_DIR to a folder on another disk"


class _StartOver(Exception):
    """The part that arrived before cannot be used."""


class Transfer:
    """Downloads one file into its entry of the cache, whose lock the caller holds."""

    def __init__(self, remote: Remote, entry: Entry, advance: Advance, report: Report) -> None:
        self._remote = remote
        self._entry = entry
        self._advance = advance
        self._report = report
        self._reported: int | None = None
        self._reached = False

    def run(self, *, fresh: bool) -> None:
        """Download the file into the entry.

        Without ``fresh``, a file that is there stays if the server reports that it has not changed.

        Raises:
            BadData: the server cannot be reached or refuses, the connection breaks, it is not the
                expected file, or the disk is full. What has arrived is kept for another try.
            Interrupted: Ctrl-C; what has arrived is kept.
        """
        import requests

        with requests.Session() as session:
            try:
                persistently(
                    lambda: self._attempt(session, fresh),
                    report=self._report,
                    progress=self._entry.part_size,
                )
            except KeyboardInterrupt:
                raise Interrupted(f"stopped; {self._kept()}: {self._again()}") from None

    def _attempt(self, session: requests.Session, fresh: bool) -> None:
        have = self._usable()
        try:
            if have and have == self._entry.part_origin().get("size", self._remote.size):
                self._report_progress(have, have)  # all of it has arrived before
            elif not self._request(session, have, fresh):
                return
        except _StartOver:
            self._entry.drop_part()
            have = 0
            self._request(session, 0, fresh=True)
        mismatch = self._mismatch()
        if mismatch is None:
            self._entry.finish()
            return
        self._entry.drop_part()
        if not have:
            raise mismatch
        self._report.note(f"the kept part of {self._remote.name} does not fit: starting over")
        self._attempt(session, fresh)

    def _mismatch(self) -> BadData | None:
        """Return why what has arrived is not the expected file."""
        remote, part = self._remote, self._entry.part
        if remote.size not in (None, self._entry.part_size()):
            return self._wrong_size(self._entry.part_size())
        if remote.pin is None or (found := remote.pin.of(part)) == remote.pin.value:
            return None
        return BadData(
            f"{remote.shown} is not the expected file: its {remote.pin.name} is {found}, not "
            f"{remote.pin.value}; nothing was saved: {remote.hint}"
        )

    def _wrong_size(self, size: int) -> BadData:
        return BadData(
            f"{self._remote.shown} is not the announced file: it has {size:,} bytes, not "
            f"{self._remote.size:,}; nothing was saved: run the command again"
        )

    def _usable(self) -> int:
        """Return how many bytes of the part a download can resume after."""
        have, origin = self._entry.part_size(), self._entry.part_origin()
        if not origin or origin.get("encoded"):
            return 0
        same = self._remote.pin is not None or (self._is_from_here(origin) and _validator(origin))
        return have if same else 0

    def _is_from_here(self, origin: Mapping[str, Any]) -> bool:
        return bool(origin.get("fingerprint") == self._remote.fingerprint)

    def _request(self, session: requests.Session, have: int, fresh: bool) -> bool:
        """Request what is missing after ``have`` bytes and write it.

        Returns: whether something came; False where the whole file has not changed.
        """
        import requests
        import urllib3

        # Without compression, Content-Length counts the bytes that arrive.
        headers: dict[str, str | None] = {"Accept-Encoding": "identity", **self._remote.headers}
        if have:
            origin = self._entry.part_origin()
            headers["Range"] = f"bytes={have}-"
            headers["If-Range"] = _validator(origin) if self._is_from_here(origin) else None
        elif not fresh and self._remote.pin is None and self._entry.path.is_file():
            origin = self._entry.origin()
            headers["If-None-Match"] = origin.get("etag")
            headers["If-Modified-Since"] = origin.get("last_modified")
        sent = {name: value for name, value in headers.items() if value is not None}
        try:
            with session.get(
                self._remote.url, headers=sent, stream=True, timeout=TIMEOUT_S
            ) as response:
                self._reached = True
                return self._take(response, have)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._network_failure(error) from error

    def _take(self, response: requests.Response, have: int) -> bool:
        remote, headers = self._remote, response.headers
        if response.status_code == 304:
            self._report.note(f"{remote.name} in the cache is still the newest")
            return False
        if response.status_code == 416 and have:
            raise _StartOver
        self._check_answer(response, have)
        encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
        if response.status_code == 206:
            total = self._continued(headers, have)
        else:
            have, total = 0, None if encoded else _number(headers.get("Content-Length"))
        if total is not None and remote.size not in (None, total):
            raise self._wrong_size(total)
        chunk = response.raw.read1(CHUNK, decode_content=True)
        if not have:
            # No hash would reveal a web page without its content type.
            if remote.pin is None and kind_of_bytes(chunk[:HEAD_BYTES]) == "html":
                self._refuse_page("nothing was saved")
            self._entry.begin_part(
                {
                    "name": remote.name,
                    "url": remote.shown,
                    "fingerprint": remote.fingerprint,
                    "etag": headers.get("ETag"),
                    "last_modified": headers.get("Last-Modified"),
                    "size": total,
                    "encoded": encoded,
                }
            )
        total = total or remote.size
        self._check_room((total or 0) - have)
        self._report_progress(have, total)
        self._write(response, chunk, have, total)
        return True

    def _write(
        self, response: requests.Response, chunk: bytes, have: int, total: int | None
    ) -> None:
        try:
            with self._entry.part.open("ab" if have else "wb") as file:
                while chunk:
                    file.write(chunk)
                    file.flush()  # what has arrived is kept, however this process ends
                    have += len(chunk)
                    self._report_progress(have, total)
                    chunk = response.raw.read1(CHUNK, decode_content=True)
        except OSError as error:
            raise BadData(
                f"cannot go on writing {self._remote.name} in {self._entry.path.parent} "
                f"({error.strerror or error}); {self._kept()}: {MAKE_ROOM}"
            ) from error

    def _report_progress(self, position: int, total: int | None) -> None:
        """Report the progress since the last call."""
        self._advance(position - (self._reported or 0), total)
        self._reported = position

    def _check_answer(self, response: requests.Response, have: int) -> None:
        """Refuse an error status, and a web page instead of the file."""
        status, headers = response.status_code, response.headers
        if status not in (200, 206) or (status == 206 and not have):
            after = headers.get("Retry-After")
            raise refused(self._remote, status, response.reason, after, self._kept())
        if "html" in headers.get("Content-Type", ""):
            self._refuse_page(self._kept())

    def _refuse_page(self, kept: str) -> None:
        """Raise BadData for a web page, unless the address is that of a page."""
        suffix = PurePosixPath(urlsplit(self._remote.url).path).suffix
        if suffix.lower() not in WEB_PAGES:
            page = f"{self._remote.shown} answered with a web page"
            raise BadData(f"{page}; {kept}: {self._remote.hint}")

    def _continued(self, headers: Mapping[str, str], have: int) -> int | None:
        """Check that the answer continues the part; return the size of the whole file.

        Raises:
            _StartOver: it is not the requested range, or the file has changed.
        """
        content_range = headers.get("Content-Range", "").strip()
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match is None or int(match[1]) != have:
            raise _StartOver
        total, origin = _number(match[2]), self._entry.part_origin()
        if total is not None and origin.get("size") not in (None, total):
            raise _StartOver
        for name, header in (("etag", "ETag"), ("last_modified", "Last-Modified")):
            then, now = origin.get(name), headers.get(header)
            if self._is_from_here(origin) and then and now and then != now:
                raise _StartOver  # the server ignores If-Range
        return total

    def _check_room(self, missing: int) -> None:
        """Refuse a file that the disk has no room for."""
        folder = self._entry.path.parent
        free = free_bytes(folder)
        if missing > free:
            raise BadData(
                f"{self._remote.name} takes {megabytes(missing)} more, and the disk of {folder} "
                f"has {megabytes(free)} free: {MAKE_ROOM}"
            )

    def _network_failure(self, error: Exception) -> Exception:
        """Return what to raise for an error of the HTTP library.

        Its own message is left out, because it holds the address, which may hold secrets.
        """
        import requests
        import urllib3

        remote, kind = self._remote, type(error).__name__
        certificate = (requests.exceptions.SSLError, urllib3.exceptions.SSLError)
        if isinstance(error, certificate) and not self._reached:
            return BadData(
                f"cannot download {remote.shown}: the certificate of {remote.host} is not trusted "
                f"here; REQUESTS_CA_BUNDLE names a file with others that are, or {remote.hint}"
            )
        network = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)
        if not isinstance(error, network):
            return BadData(f"cannot download {remote.shown} ({kind}); {remote.hint}")
        if not self._reached:
            return unreachable(remote, error)
        final = f"the download of {remote.shown} broke off ({kind}); {self._kept()}"
        return Passing(
            f"the download of {remote.name} broke off", BadData(f"{final}: {self._again()}")
        )

    def _kept(self) -> str:
        """Return a clause about how much of the file is kept."""
        have = self._usable()
        if not have:
            return "nothing was saved"
        total = self._entry.part_origin().get("size")
        of = f" of {total:,}" if total is not None else ""
        return f"{have:,}{of} bytes are kept"

    def _again(self) -> str:
        return "the same command goes on from there" if self._usable() else "run the command again"


def _validator(origin: Mapping[str, Any]) -> str | None:
    """Return the value for If-Range: a strong ETag, else a date."""
    etag, modified = origin.get("etag"), origin.get("last_modified")
    if isinstance(etag, str) and not etag.startswith("W/"):
        return etag
    return modified if isinstance(modified, str) else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
