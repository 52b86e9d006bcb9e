"""A workspace, told by the headers of what is in it; and folders that are nothing in particular."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.manifests import entries, read_json
from llmc.check.inspect.reading import Asked, file_size
from llmc.errors import LlmcError
from llmc.model import parameter_count
from llmc.paths import CHECKPOINT, METRICS, Workspace
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.train.metrics import read_metrics
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
    made.say("datasets_count", len(datasets), f"{len(datasets):,}")
    models = [_model(made, path, path.name) for path in _files(place.models)]
    made.say("models_count", len(models), f"{len(models):,}")
    runs = [_run(made, path) for path in _folders(place.runs)]
    made.say("runs_count", len(runs), f"{len(runs):,}")
    made.table("datasets", ("dataset", "tokenizer", ">train_tokens", ">val_tokens"), datasets)
    made.table("models", ("model", ">parameters", "shape", "dtype"), models)
    made.table("runs", ("run", ">step", ">train_loss", ">best_val_loss", ">parameters"), runs)
    if not (datasets or models or runs):
        made.hints.append("llmc prepare stdlib")
    return made


def describe_plain_folder(folder: Path, asked: Asked) -> Description:
    """Describe a folder that is no dataset, run, model or workspace: what its files begin like.

    Raises:
        OSError: the folder cannot be read.
    """
    made = Description(folder, "folder", "folder of files")
    names = sorted(entry.name for entry in os.scandir(folder))
    made.say("entries", len(names))
    rows = []
    for name in names[:MOST_ENTRIES]:
        path = folder / name
        try:
            kind, size = ("folder", None) if path.is_dir() else (kind_of(path), file_size(path))
        except OSError as error:
            kind, size = safe_text(error.strerror or "unreadable"), None
        rows.append((name, kind, size))
    made.table(
        "files", ("name", "kind", ">bytes"), rows, left_out=max(0, len(names) - MOST_ENTRIES)
    )
    return made


def _folders(place: Path) -> Iterator[Path]:
    """Yield the folders in one; what is hidden is somebody's work in progress."""
    if place.is_dir():
        paths = sorted(place.iterdir())
        yield from (p for p in paths if p.is_dir() and not p.name.startswith("."))


def _files(place: Path) -> Iterator[Path]:
    """Yield the checkpoints in a folder."""
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        try:
            if path.is_file() and kind_of(path) == "checkpoint":
                yield path
        except OSError:
            continue


def _dataset(made: Description, folder: Path) -> tuple[Any, ...]:
    try:
        fields = read_json(folder / MANIFEST)
    except FileNotFoundError:
        return (folder.name, None, None, None)
    except (OSError, ValueError) as error:
        made.wrong(f"{folder / MANIFEST} cannot be read ({safe_text(str(error))})")
        return (folder.name, None, None, None)
    if not isinstance(fields, dict):
        made.wrong(f"{folder / MANIFEST} is not a manifest that llmc wrote")
        return (folder.name, None, None, None)
    tokens = []
    for split in ("train", "val"):
        files = entries(fields.get(split))
        tokens.append(sum(entry.tokens for entry in files) if files else None)
        for entry in files:
            if not (folder / entry.file).is_file():
                made.wrong(f"{folder / entry.file} is gone: run 'llmc tokenize' again")
    record = fields.get("tokenizer")
    name = record.get("name") if isinstance(record, dict) else None
    return (folder.name, name if isinstance(name, str) else None, *tokens)


def _model(made: Description, path: Path, name: str) -> tuple[Any, ...]:
    try:
        header = read_header(path)
    except LlmcError as error:
        made.wrong(safe_text(str(error), None))
        return (name, None, None, None)
    c = header.config
    shape = f"{c.layers} layers, {c.heads} heads, {c.channels} channels, context {c.context}"
    return (name, parameter_count(c), shape, header.dtype)


def _run(made: Description, folder: Path) -> tuple[Any, ...]:
    last = best = step = parameters = None
    try:
        metrics = read_metrics(folder / METRICS)
        if metrics.train:
            step, last = metrics.train_losses[-1]
        best = min((loss for _, loss in metrics.val_losses), default=None)
        if metrics.problem is not None:
            made.wrong(f"{folder}: {metrics.problem}")
    except FileNotFoundError:
        pass
    if (folder / CHECKPOINT).is_file():
        parameters = _model(made, folder / CHECKPOINT, "")[1]
    return (folder.name, step, last, best, parameters)
