"""``llmc fetch``: bring a dataset's text or a model's weights into the workspace."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llmc.config import nearest
from llmc.context import Context
from llmc.datasets import EVALUATIONS, FETCHED, NAMES, STDLIB, RemoteFile, stdlib_folder
from llmc.download import copy, download, download_from_hub, file_sha256
from llmc.errors import BadData, Usage

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
        typer.Option(metavar="PATH|URL", help="A local copy, or a mirror's address."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is there.")] = False,
) -> None:
    """Download a dataset's text, an evaluation's questions or a model's weights."""
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
        source: a local file or folder, or a mirror's address; None: where it is published.
        force: fetch again what is there.

    Raises:
        Usage: there is no such name, or ``stdlib`` is given a source.
        BadData: a file cannot be had or is not the right one.
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
    for file in wanted.files:
        path = wanted.folder / file.name
        if not force and _is_there(path, file):
            here.ui.note(f"{here.workspace.shown(path)} is there (--force fetches it again)")
            continue
        try:
            _fetch_file(here, wanted, file, source)
        finally:
            for folder in (wanted.folder, wanted.folder.parent):
                with suppress(OSError):
                    folder.rmdir()  # still empty: it failed, and leaves nothing behind
        here.ui.note(f"fetched {here.workspace.shown(path)} ({path.stat().st_size:,} bytes)")
    return wanted.folder


@dataclass(frozen=True)
class _Wanted:
    """The files to fetch, the folder they go to, and the hub repository of those without a URL."""

    folder: Path
    files: tuple[RemoteFile, ...]
    repo: str
    repo_type: str


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


def _fetch_file(here: Context, wanted: _Wanted, file: RemoteFile, source: str | None) -> None:
    """Bring one file into its folder, with progress.

    Raises:
        BadData: it cannot be had or is not the right one.
    """
    path = wanted.folder / file.name
    origin = _origin(file, source, alone=len(wanted.files) == 1)
    with here.ui.progress() as progress:
        task = progress.add_task(file.name, total=None)

        def advance(step: int, total: int | None) -> None:
            progress.update(task, advance=step, total=total)

        if origin is None:
            download_from_hub(
                wanted.repo, file.name, path, repo_type=wanted.repo_type, advance=advance
            )
        elif _is_url(origin):
            download(origin, path, sha256=file.sha256, advance=advance)
        else:
            copy(Path(origin), path, sha256=file.sha256, advance=advance)


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))
