"""Fetch by name: bring the files of a registered dataset or model into the workspace."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from llmc.errors import BadData, Usage
from llmc.fetch.cache import file_sha256
from llmc.fetch.download import copy, download, download_from_hub
from llmc.fetch.network import is_url
from llmc.fetch.registry import LOCAL, Dataset, RemoteFile, registered, stdlib_folder
from llmc.fetch.unpack import is_archive, unpack
from llmc.paths import Workspace
from llmc.report import SILENT, Report


def fetch_named(
    workspace: Workspace,
    name: str,
    *,
    source: str | None = None,
    force: bool = False,
    report: Report = SILENT,
) -> Path:
    """Fetch the dataset, evaluation or weights called ``name``; return the folder of the files.

    The folder is ``data/<name>`` for a dataset or an evaluation, ``models/<name>`` for weights, and
    the standard library itself for ``stdlib`` and ``docstrings``. ``source`` is a local file,
    folder or archive, or a mirror's address; by default the files come from where they are
    published. ``force`` fetches files again that are there already.

    Raises:
        Usage: nothing has that name, or a text of this machine is given a source.
        BadData: a file cannot be had or is not the right one.
        Interrupted: Ctrl-C during a download; what has arrived is kept.
    """
    if name in LOCAL:
        if source is not None:
            raise Usage(
                f"{name} is read from the Python that runs llmc, without --source: "
                f"for another folder, run 'llmc tokenize {source}'"
            )
        folder = stdlib_folder()
        report.note(f"{name} is on this machine already: {folder}")
        return folder
    dataset = registered(name)
    folder = dataset.folder(workspace)
    missing = []
    for file in dataset.files:
        if force or not _is_there(folder / file.name, file):
            missing.append(file)
        else:
            shown = workspace.shown(folder / file.name)
            report.note(f"{shown} is there (--force fetches it again)")
    if not missing:
        return folder
    try:
        with _unpacked(dataset, folder, source, report) as place:
            for file in missing:
                path = folder / file.name
                _fetch_file(dataset, file, path, place, fresh=force, report=report)
                report.note(f"fetched {workspace.shown(path)} ({path.stat().st_size:,} bytes)")
    finally:
        for empty in (folder, folder.parent):
            with suppress(OSError):
                empty.rmdir()  # still empty: the fetch failed and leaves nothing behind
    return folder


def _is_there(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and (file.sha256 is None or file_sha256(path) == file.sha256)


@contextmanager
def _unpacked(
    dataset: Dataset, folder: Path, source: str | None, report: Report
) -> Iterator[str | None]:
    """Yield ``source``, or a temporary folder (or file) of what it holds if it is an archive."""
    place = urlsplit(source).path if source is not None and is_url(source) else source
    if source is None or place is None or not is_archive(place):
        yield source
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".archive.", dir=folder) as scratch:
        archive = Path(source)
        if is_url(source):
            archive = Path(scratch, PurePosixPath(place).name)
            download(source, archive, report=report)
        report.note(f"unpacking {archive.name}")
        files = unpack(archive, Path(scratch, "unpacked"))
        names = {file.name for file in dataset.files}
        # The one file may have any name; several are found by their names.
        alone = len(names) == len(files) == 1
        places = files if alone else {path.parent for path in files if path.name in names}
        if len(places) != 1:
            raise BadData(
                f"{source} does not hold {' and '.join(sorted(names))} in one folder: name "
                "another with --source"
            )
        (only,) = places
        yield str(only)


def _fetch_file(
    dataset: Dataset,
    file: RemoteFile,
    path: Path,
    source: str | None,
    *,
    fresh: bool,
    report: Report,
) -> None:
    """Bring one file to ``path``: from ``source``, its address or the hub."""
    is_alone = len(dataset.files) == 1
    origin = file.url if source is None else source
    if origin is None:
        kind = dataset.repo_type
        download_from_hub(dataset.hub, file.name, path, repo_type=kind, report=report, fresh=fresh)
    elif is_url(origin):
        if source is not None and not is_alone:
            origin = f"{origin.rstrip('/')}/{file.name}"
        download(origin, path, sha256=file.sha256, report=report, fresh=fresh)
    elif is_alone or Path(origin).is_dir():
        local = Path(origin, file.name) if Path(origin).is_dir() else Path(origin)
        copy(local, path, sha256=file.sha256, report=report)
    else:
        raise BadData(f"{origin} is not a folder with {file.name} in it: name one with --source")
