"""A workspace, described from the headers of its files; and folders of any other kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.reading import Asked
from llmc.errors import LlmcError
from llmc.model import parameter_count
from llmc.paths import Workspace
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.tokens.manifest import SPLITS, scan_manifest
from llmc.train.history import read_run
from llmc.weights.checkpoint import read_header

MOST_ENTRIES = 200


def describe_workspace(folder: Path, asked: Asked) -> Description:
    """Describe a workspace: its datasets, models and runs. No file is read whole.

    Raises:
        OSError: the folder cannot be read.
    """
    made = Description(folder, "workspace", "workspace")
    place = Workspace(folder)
    datasets = [_dataset(made, path) for path in _folders(place.data)]
    made.say("datasets_count", len(datasets))
    models = [_model(made, path) for path in _checkpoints(place.models)]
    made.say("models_count", len(models))
    runs = [_run(made, path) for path in _folders(place.runs)]
    made.say("runs_count", len(runs))
    made.table("datasets", ("dataset", "tokenizer", ">train_tokens", ">val_tokens"), datasets)
    made.table("models", ("model", ">parameters", "shape", "dtype"), models)
    made.table("runs", ("run", ">step", ">train_loss", ">best_val_loss", ">parameters"), runs)
    if not (datasets or models or runs):
        made.hints.append("llmc prepare stdlib")
    return made


def describe_plain_folder(folder: Path, asked: Asked) -> Description:
    """Describe a folder that is no dataset, run, model or workspace: the kinds of its files.

    Raises:
        OSError: the folder cannot be read.
    """
    made = Description(folder, "folder", "folder of files")
    names = sorted(entry.name for entry in os.scandir(folder))
    made.say("entries", len(names))
    rows: list[tuple[str, str, int | None]] = []
    for name in names[:MOST_ENTRIES]:
        path = folder / name
        try:
            if path.is_dir():
                rows.append((name, "folder", None))
            else:
                rows.append((name, kind_of(path), path.stat().st_size))
        except OSError as error:
            rows.append((name, safe_text(error.strerror or "unreadable"), None))
    made.table(
        "files", ("name", "kind", ">bytes"), rows, left_out=max(0, len(names) - MOST_ENTRIES)
    )
    return made


def _folders(place: Path) -> Iterator[Path]:
    """Yield the folders in ``place``; hidden ones are unfinished work."""
    if place.is_dir():
        paths = sorted(place.iterdir())
        yield from (p for p in paths if p.is_dir() and not p.name.startswith("."))


def _checkpoints(place: Path) -> Iterator[Path]:
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        try:
            if path.is_file() and kind_of(path) == "checkpoint":
                yield path
        except OSError:
            continue


def _dataset(made: Description, folder: Path) -> tuple[Any, ...]:
    try:
        fields, problems = scan_manifest(folder / MANIFEST, str(folder / MANIFEST))
    except FileNotFoundError:
        return (folder.name, None, None, None)
    for problem in problems:
        made.wrong(safe_text(problem, None))
    tokens = []
    for split in SPLITS:
        shards = fields.get(split)
        tokens.append(sum(shard["tokens"] for shard in shards) if shards else None)
        for shard in shards or ():
            if not (folder / shard["file"]).is_file():
                made.wrong(f"{folder / shard['file']} is gone: run 'llmc tokenize' again")
    record = fields.get("tokenizer")
    name = record.get("name") if isinstance(record, dict) else None
    return (folder.name, name if isinstance(name, str) else None, *tokens)


def _model(made: Description, path: Path) -> tuple[Any, ...]:
    try:
        header = read_header(path)
    except LlmcError as error:
        made.wrong(safe_text(str(error), None))
        return (path.name, None, None, None)
    c = header.config
    shape = f"{c.layers} layers, {c.heads} heads, {c.channels} channels, context {c.context}"
    return (path.name, parameter_count(c), shape, header.dtype)


def _run(made: Description, folder: Path) -> tuple[Any, ...]:
    run = read_run(folder)
    for problem in run.problems:
        made.wrong(safe_text(f"{folder}: {problem}", None))
    best = run.best_val[1] if run.best_val is not None else None
    return (run.name, run.done or None, run.train_loss, best, run.parameters)
