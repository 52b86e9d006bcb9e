"""Download one file over HTTP: an interrupted download resumes, a failed request is retried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import FileIO
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from llmc.errors import BadData, Interrupted
from llmc.fetch.cache import Entry
from llmc.fetch.network import Passing, persistently
from llmc.fetch.remote import Remote, unreachable
from llmc.kinds import HEAD_BYTES, kind_of_bytes
from llmc.paths import free_bytes
from llmc.report import Advance, Report
from llmc.units import megabytes

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 18
TIMEOUT_S = (10, 30)  # to connect, and between two bytes

# Statuses that are worth a retry; a server repeats any other refusal.
PASSING = (408, 425, 429, 500, 502, 503, 504)
NEEDS_TOKEN = (401, 403)
WEB_PAGES = (".html", ".htm", ".xhtml")


class _StartOver(Exception):
    """The part that arrived before cannot be used."""


class Transfer:
    """Downloads one file into its entry of the cache, whose lock the caller holds."""

    def __init__(self, remote: Remote, entry: Entry, advance: Advance, report: Report) -> None:
        """Prepare; nothing is requested yet."""
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
        remote, entry = self._remote, self._entry
        have = self._usable()
        known = entry.part_origin().get("size", remote.size)
        try:
            if have == 0 or have != known:
                if self._request(session, have, fresh) is None:
                    return
            else:
                self._report_progress(have, have)
        except _StartOver:
            entry.drop_part()
            have = 0
            self._request(session, 0, fresh=True)
        if remote.size is not None and entry.part_size() != remote.size:
            size = entry.part_size()
            entry.drop_part()
            raise BadData(
                f"{remote.shown} is not the announced file: it has {size:,} bytes, not "
                f"{remote.size:,}; nothing was saved: run the command again"
            )
        if remote.pin is not None and (found := remote.pin.of(entry.part)) != remote.pin.value:
            entry.drop_part()
            if have:
                self._report.note(f"the kept part of {remote.name} does not fit: starting over")
                self._attempt(session, fresh)
                return
            raise BadData(
                f"{remote.shown} is not the expected file: its {remote.pin.name} is {found}, not "
                f"{remote.pin.value}; nothing was saved: {remote.hint}"
            )
        entry.finish()

    def _usable(self) -> int:
        """Return how many bytes of the part a download can resume after."""
        have, origin = self._entry.part_size(), self._entry.part_origin()
        if have and origin and not origin.get("encoded"):
            same = origin.get("fingerprint") == self._remote.fingerprint
            if self._remote.pin is not None or (same and _validator(origin)):
                return have
        return 0

    def _request(self, session: requests.Session, have: int, fresh: bool) -> int | None:
        """Request what is missing after ``have`` bytes and write it.

        Returns: the size of the part, or None where the whole file has not changed.
        """
        import requests
        import urllib3

        # Without compression, Content-Length counts the bytes that arrive.
        headers = {"Accept-Encoding": "identity", **self._remote.headers}
        if have:
            headers["Range"] = f"bytes={have}-"
            origin = self._entry.part_origin()
            if (validator := _validator(origin)) and self._is_from_here(origin):
                headers["If-Range"] = validator
        elif not fresh and self._remote.pin is None and self._entry.path.is_file():
            origin = self._entry.origin()
            if etag := origin.get("etag"):
                headers["If-None-Match"] = etag
            elif modified := origin.get("last_modified"):
                headers["If-Modified-Since"] = modified
        try:
            with session.get(
                self._remote.url, headers=headers, stream=True, timeout=TIMEOUT_S
            ) as response:
                self._reached = True
                return self._take(response, have)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._network_failure(error) from error

    def _take(self, response: requests.Response, have: int) -> int | None:
        if response.status_code == 304:
            self._report.note(f"{self._remote.name} in the cache is still the newest")
            return None
        if response.status_code == 416 and have:
            raise _StartOver
        self._check_answer(response, have)
        encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        if response.status_code == 206:
            total = self._continued(response, have)
        else:
            have, total = 0, None if encoded else _number(response.headers.get("Content-Length"))
        size = self._remote.size
        if total is not None and size is not None and total != size:
            raise BadData(
                f"{self._remote.shown} is not the announced file: it has {total:,} bytes, not "
                f"{size:,}; nothing was saved: run the command again"
            )
        chunk = response.raw.read1(CHUNK, decode_content=True)
        if not have:
            self._check_beginning(chunk)
            self._entry.begin_part(self._origin(response, total, encoded=encoded))
        self._check_room((total or size or 0) - have)
        self._report_progress(have, total or size)
        self._write(response, chunk, have, total or size)
        return self._entry.part_size()

    def _write(
        self, response: requests.Response, chunk: bytes, have: int, total: int | None
    ) -> None:
        with self._opened("ab" if have else "wb") as file:
            while chunk:
                rest = memoryview(chunk)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise self._disk_failure(error) from error
                have += len(chunk)
                self._report_progress(have, total)
                chunk = response.raw.read1(CHUNK, decode_content=True)

    def _opened(self, mode: Literal["ab", "wb"]) -> FileIO:
        try:
            # Unbuffered: what has arrived is kept, however this process ends.
            return self._entry.part.open(mode, buffering=0)
        except OSError as error:
            raise self._disk_failure(error) from error

    def _report_progress(self, position: int, total: int | None) -> None:
        """Report the progress since the last call."""
        self._advance(position - (self._reported or 0), total)
        self._reported = position

    def _origin(
        self, response: requests.Response, total: int | None, *, encoded: bool
    ) -> dict[str, Any]:
        return {
            "name": self._remote.name,
            "url": self._remote.shown,
            "fingerprint": self._remote.fingerprint,
            "etag": response.headers.get("ETag"),
            "last_modified": response.headers.get("Last-Modified"),
            "size": total,
            "encoded": encoded,
        }

    def _is_from_here(self, origin: Mapping[str, Any]) -> bool:
        return bool(origin.get("fingerprint") == self._remote.fingerprint)

    def _check_answer(self, response: requests.Response, have: int) -> None:
        """Refuse an error status, and a web page instead of the file.

        Raises:
            BadData: the server refused, or sent a web page.
            Passing: the server may answer differently later.
        """
        remote, status = self._remote, response.status_code
        if status not in (200, 206) or (status == 206 and not have):
            hint = remote.hint
            if status in NEEDS_TOKEN and remote.headers:
                hint = (
                    "where it needs an account, set HF_TOKEN to a token that may read it; or "
                    + hint
                )
            answer = f"answered {status} {response.reason}".rstrip()
            wait_s = _retry_after(response.headers.get("Retry-After"))
            if wait_s is not None and status in PASSING:
                answer += f" and asks to wait {wait_s:.0f} s"
            final = BadData(f"{remote.shown} {answer}; {self._kept()}: {hint}")
            if status in PASSING:
                raise Passing(f"{remote.host} {answer}", final, wait_s=wait_s)
            raise final
        if "html" in response.headers.get("Content-Type", "") and not self._is_web_page():
            raise BadData(f"{remote.shown} answered with a web page; {self._kept()}: {remote.hint}")

    def _check_beginning(self, chunk: bytes) -> None:
        """Refuse a web page without its content type, where no hash would reveal it.

        Raises:
            BadData: the server sent a web page.
        """
        is_page = kind_of_bytes(chunk[:HEAD_BYTES]) == "html"
        if is_page and self._remote.pin is None and not self._is_web_page():
            raise BadData(
                f"{self._remote.shown} answered with a web page; nothing was saved: "
                f"{self._remote.hint}"
            )

    def _is_web_page(self) -> bool:
        return PurePosixPath(urlsplit(self._remote.url).path).suffix.lower() in WEB_PAGES

    def _continued(self, response: requests.Response, have: int) -> int | None:
        """Check that the answer continues the part; return the size of the whole file.

        Raises:
            _StartOver: it is not the requested range, or the file has changed.
        """
        match = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
        )
        origin = self._entry.part_origin()
        if match is None or int(match[1]) != have:
            raise _StartOver
        total = _number(match[2])
        if total is not None and origin.get("size") not in (None, total):
            raise _StartOver
        for name, header in (("etag", "ETag"), ("last_modified", "Last-Modified")):
            then, now = origin.get(name), response.headers.get(header)
            if self._is_from_here(origin) and then and now and then != now:
                raise _StartOver  # the server ignores If-Range
        return total

    def _check_room(self, missing: int) -> None:
        """Refuse a file that the disk has no room for.

        Raises:
            BadData: there is not enough free space.
        """
        folder = self._entry.path.parent
        free = free_bytes(folder)
        if missing > free:
            raise BadData(
                f"{self._remote.name} takes {megabytes(missing)} more, and the disk of {folder} "
                f"has {megabytes(free)} free: free some space, or set LLMC_CACHE_DIR to a folder "
                "on another disk"
            )

    def _disk_failure(self, error: OSError) -> BadData:
        folder = self._entry.path.parent
        return BadData(
            f"cannot go on writing {self._remote.name} in {folder} "
            f"({error.strerror or error}); {self._kept()}: free some space, or set "
            "LLMC_CACHE_DIR to a folder on another disk"
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
                "here; REQUESTS_CA_BUNDLE names a file with others that are, or "
                f"{remote.hint}"
            )
        network = (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
            urllib3.exceptions.HTTPError,
        )
        if not isinstance(error, network):
            return BadData(f"cannot download {remote.shown} ({kind}); {remote.hint}")
        if self._reached:
            kept = f"{self._kept()}: {self._again()}"
            final = f"the download of {remote.shown} broke off ({kind}); {kept}"
            return Passing(f"the download of {remote.name} broke off", BadData(final))
        return unreachable(remote.shown, remote.host, remote.hint, error)

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
    etag = origin.get("etag")
    if isinstance(etag, str) and not etag.startswith("W/"):
        return etag
    modified = origin.get("last_modified")
    return modified if isinstance(modified, str) else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After header names, by number or by date."""
    import urllib3

    if text is None:
        return None
    try:
        return urllib3.Retry().parse_retry_after(text)
    except urllib3.exceptions.InvalidHeader:
        return None
