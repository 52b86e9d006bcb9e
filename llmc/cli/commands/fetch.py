"""``llmc fetch``: bring a dataset's text or a model's weights into the workspace."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

import typer

from llmc.cli.context import Context
from llmc.config import nearest
from llmc.errors import BadData, Usage
from llmc.fetch.download import Advance, copy, download, download_from_hub, file_sha256
from llmc.fetch.unpack import is_archive, unpack
from llmc.text.source import EVALUATIONS, FETCHED, NAMES, STDLIB, RemoteFile, stdlib_folder

MODELS = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
}
KNOWN = (*NAMES, *EVALUATIONS, *MODELS)
MODEL_FILES = (RemoteFile("config.json"), RemoteFile("model.safetensors"))


def fetch(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(KNOWN)}.")],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL",
            help="A local copy (file, folder or archive), or a mirror's address.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is there.")] = False,
) -> None:
    """Download a dataset, an evaluation or a model's weights.

    What breaks off, by Ctrl-C too, is gone on with when the same command is given again.

    Downloads are kept in a cache that all workspaces share; with --offline (or LLMC_OFFLINE=1)
    nothing but that is asked. HF_ENDPOINT names a mirror of the hub, HF_TOKEN opens what is not
    public, HTTPS_PROXY names a proxy, LLMC_RETRIES is how often a failed request is repeated.
    """
    here: Context = ctx.obj
    folder = fetch_dataset(here, name, source=source, force=force)
    files = sorted(path.name for path in folder.iterdir()) if name != STDLIB else []
    here.ui.result({"name": name, "folder": str(folder), "files": files})
    if name in MODELS:
        here.ui.next(f"llmc export-weights {name}")
    else:
        here.ui.next(f"llmc eval --task {name}" if name in EVALUATIONS else f"llmc tokenize {name}")


def fetch_dataset(here: Context, name: str, *, source: str | None, force: bool) -> Path:
    """Fetch the dataset, evaluation or model ``name``; return the folder that holds its files.

    That is ``data/<name>`` for a dataset or an evaluation, ``models/<name>`` for a model, and the
    standard library itself for ``stdlib``, which is on every machine. Files that are there already
    stay, unless ``force``.

    Args:
        here: the workspace and the voice.
        name: a registered dataset, evaluation or model.
        source: a local file, folder or archive, or a mirror's address; None: where it is
            published.
        force: fetch again what is there.

    Raises:
        Usage: there is no such name, or ``stdlib`` is given a source.
        BadData: a file cannot be had or is not the right one.
        Interrupted: Ctrl-C during a download; what has arrived is kept.
    """
    if name == STDLIB:
        if source is not None:
            raise Usage(
                "stdlib is read from the Python that runs llmc, without --source: "
                f"for another folder, run 'llmc tokenize {source}'"
            )
        folder = stdlib_folder()
        here.ui.note(f"stdlib is on this machine already: {folder}")
        return folder
    wanted = _wanted(here, name)
    missing = []
    for file in wanted.files:
        if not force and _is_there(wanted.folder / file.name, file):
            shown = here.workspace.shown(wanted.folder / file.name)
            here.ui.note(f"{shown} is there (--force fetches it again)")
        else:
            missing.append(file)
    if not missing:
        return wanted.folder
    try:
        with _opened(here, wanted, source) as origin:
            for file in missing:
                path = wanted.folder / file.name
                _fetch_file(here, wanted, file, origin, fresh=force)
                size = path.stat().st_size
                here.ui.note(f"fetched {here.workspace.shown(path)} ({size:,} bytes)")
    finally:
        for folder in (wanted.folder, wanted.folder.parent):
            with suppress(OSError):
                folder.rmdir()  # still empty: it failed, and leaves nothing behind
    return wanted.folder


@dataclass(frozen=True)
class _Wanted:
    """The files to fetch, the folder they go to, and the hub repository of those without a URL."""

    folder: Path
    files: tuple[RemoteFile, ...]
    repo: str
    repo_type: str

    @property
    def is_alone(self) -> bool:
        """Whether it is a single file, which ``--source`` may then name itself."""
        return len(self.files) == 1


def _wanted(here: Context, name: str) -> _Wanted:
    """Look up a dataset, evaluation or model.

    Raises:
        Usage: there is none of that name.
    """
    dataset = FETCHED.get(name) or EVALUATIONS.get(name)
    if dataset is not None:
        return _Wanted(here.workspace.data / name, dataset.files, dataset.hub, "dataset")
    if name in MODELS:
        return _Wanted(here.workspace.models / name, MODEL_FILES, MODELS[name], "model")
    raise Usage(f"nothing called '{name}' to fetch{nearest(name, list(KNOWN))}")


def _is_there(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and (file.sha256 is None or file_sha256(path) == file.sha256)


@contextmanager
def _opened(here: Context, wanted: _Wanted, source: str | None) -> Iterator[str | None]:
    """Yield ``source``, or where that is an archive, for a while the place of its files.

    Raises:
        BadData: the archive cannot be had, is broken or not safe to unpack.
    """
    if source is None or not is_archive(urlsplit(source).path if _is_url(source) else source):
        yield source
        return
    wanted.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".archive.", dir=wanted.folder) as scratch:
        archive = Path(source)
        if _is_url(source):
            archive = Path(scratch) / PurePosixPath(urlsplit(source).path).name
            with _progress(here, archive.name) as advance:
                download(source, archive, advance=advance, note=here.ui.note)
        here.ui.note(f"unpacking {archive.name}")
        files = unpack(archive, Path(scratch) / "unpacked")
        if wanted.is_alone and len(files) == 1:
            yield str(files[0])
            return
        names = {file.name for file in wanted.files}
        folders = {path.parent for path in files if path.name in names}
        if len(folders) != 1:
            raise BadData(
                f"{source} does not hold {' and '.join(sorted(names))} in one folder: name "
                "another with --source"
            )
        yield str(folders.pop())


def _origin(file: RemoteFile, source: str | None, *, alone: bool) -> str | None:
    """Return where ``file`` comes from, None for the hub.

    Raises:
        BadData: one local file is to stand for several.
    """
    if source is None:
        return file.url
    if _is_url(source):
        return source if alone else f"{source.rstrip('/')}/{file.name}"
    if Path(source).is_dir():
        return str(Path(source) / file.name)
    if not alone:
        raise BadData(f"{source} is not a folder with {file.name} in it: name one with --source")
    return source


def _fetch_file(
    here: Context, wanted: _Wanted, file: RemoteFile, source: str | None, *, fresh: bool
) -> None:
    """Bring one file into its folder, with progress.

    Raises:
        BadData: it cannot be had or is not the right one.
    """
    path = wanted.folder / file.name
    origin = _origin(file, source, alone=wanted.is_alone)
    note = here.ui.note
    with _progress(here, file.name) as advance:
        if origin is None:
            download_from_hub(
                wanted.repo,
                file.name,
                path,
                repo_type=wanted.repo_type,
                advance=advance,
                note=note,
                fresh=fresh,
            )
        elif _is_url(origin):
            download(origin, path, sha256=file.sha256, advance=advance, note=note, fresh=fresh)
        else:
            copy(Path(origin), path, sha256=file.sha256, advance=advance)


@contextmanager
def _progress(here: Context, name: str) -> Iterator[Advance]:
    """Show a bar; yield what moves it."""
    with here.ui.progress() as progress:
        task = progress.add_task(name, total=None)

        def advance(step: int, total: int | None) -> None:
            if progress.tasks[0].total is None and total is not None:
                # What was there before this command is no part of its speed.
                progress.reset(task, total=total, completed=step)
            else:
                progress.update(task, advance=step, total=total)

        yield advance


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))
