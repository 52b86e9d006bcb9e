"""Download files: verified in the cache, then put into their place, or not there at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llmc.errors import BadData
from llmc.fetch.cache import Entry, Pin
from llmc.fetch.http import Transfer
from llmc.fetch.hub import HubFile
from llmc.fetch.network import Remote, is_offline
from llmc.paths import link_or_copy, written_whole
from llmc.report import SILENT, Report

CHUNK = 1 << 20
SOURCE_HINT = "get the file elsewhere and name it with --source PATH"


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    report: Report = SILENT,
    hint: str = SOURCE_HINT,
    fresh: bool = False,
) -> None:
    """Download ``url`` to ``path``, through the cache.

    An interrupted download resumes, in the next try or in the next process. A file with a known
    hash is downloaded once; for another, the server is asked whether it has changed. Two processes
    do not download the same file at once: one waits.

    Args:
        url: an HTTP address.
        path: where the file goes: a hard link to the cache's, read-only, where there can be one.
        sha256: what the content must be, in hexadecimal.
        report: shows progress, waits and retries.
        hint: the end of error messages: what to do instead.
        fresh: download the file even if it is in the cache.

    Raises:
        BadData: the server cannot be reached or refuses, the connection breaks, the content is not
            that of ``sha256``, the disk is full, or llmc is offline and the file is not in the
            cache. ``path`` is unchanged.
        Interrupted: Ctrl-C. ``path`` is unchanged.
    """
    pin = Pin(sha256) if sha256 is not None else None
    remote = Remote(url, path.name, hint, pin)
    entry = Entry(remote.key)
    if is_offline():
        if not entry.holds(pin):
            raise _not_here(path, remote.shown, hint)
        _place(entry, path, path.name, report)
        return
    if pin is None and entry.path.is_file():
        hint = f"--offline takes the copy that is in the cache; or {hint}"
    _bring(Remote(url, path.name, hint, pin), path, report=report, fresh=fresh)


def download_from_hub(
    repo: str,
    filename: str,
    path: Path,
    *,
    repo_type: str,
    report: Report = SILENT,
    fresh: bool = False,
) -> None:
    """Download one file of a Hugging Face repository to ``path``, as :func:`download` does.

    ``HF_ENDPOINT`` names a mirror of the hub; ``HF_TOKEN`` gives access to private files. The
    content must have the hash that the hub announces. A file that Hugging Face's own programs have
    downloaded is taken from their cache.

    Raises:
        BadData: the hub cannot be reached or refuses, the content is not the announced one, the
            disk is full, or llmc is offline and the file is in no cache. ``path`` is unchanged.
        Interrupted: Ctrl-C. ``path`` is unchanged.
    """
    file = HubFile(repo, filename, repo_type)
    if is_offline():
        remote = None
        entry, pin = file.remembered() or (None, None)
        if entry is not None and entry.holds(pin):
            _place(entry, path, filename, report)
            return
        found = file.in_hub_cache(pin)
    else:
        remote = file.announced(SOURCE_HINT, report)
        is_new = remote.pin is not None and not Entry(remote.key).path.is_file()
        found = file.in_hub_cache(remote.pin) if is_new and not fresh else None
    if found is not None:
        report.note(f"{filename} is in the cache of Hugging Face's programs")
        copy(found, path, report=report)
    elif remote is not None:
        _bring(remote, path, report=report, fresh=fresh)
    else:
        raise _not_here(path, f"{repo} on the hub", SOURCE_HINT)


def copy(source: Path, path: Path, *, sha256: str | None = None, report: Report = SILENT) -> None:
    """Copy the local file ``source`` to ``path``.

    Raises:
        BadData: ``source`` cannot be read, its content is not that of ``sha256``, or the disk is
            full. ``path`` is unchanged.
    """
    digest = hashlib.sha256()
    try:
        file = source.open("rb")
        total = source.stat().st_size
    except OSError as error:
        raise BadData(
            f"cannot read {source}: {error.strerror}; name the local copy with --source PATH"
        ) from error
    with file, report.bar(path.name) as advance, written_whole(path) as partial:
        with partial.open("wb") as out:
            while chunk := file.read(CHUNK):
                out.write(chunk)
                digest.update(chunk)
                advance(len(chunk), total)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise BadData(
                f"{source} is not the expected file: its SHA-256 is {digest.hexdigest()}, not "
                f"{sha256}; nothing was saved: {SOURCE_HINT}"
            )


def _bring(remote: Remote, path: Path, *, report: Report, fresh: bool) -> None:
    """Download the file into the cache unless it is there, then put it at ``path``."""
    entry = Entry(remote.key)
    with entry.locked(remote.name, report) as brought_meanwhile:
        settled = brought_meanwhile or (remote.pin is not None and not fresh)
        if settled and entry.holds(remote.pin):
            _place(entry, path, remote.name, report)
            return
        with report.bar(remote.name) as advance:
            Transfer(remote, entry, advance, report).run(fresh=fresh)
        link_or_copy(entry.path, path)


def _place(entry: Entry, path: Path, name: str, report: Report) -> None:
    report.note(f"{name} is in the cache")
    link_or_copy(entry.path, path)


def _not_here(path: Path, origin: str, hint: str) -> BadData:
    return BadData(
        f"{path.name} is not in the cache, and the network is switched off (--offline, "
        "LLMC_OFFLINE or HF_HUB_OFFLINE): run the command once with a network, to get it from "
        f"{origin}, or {hint}"
    )
