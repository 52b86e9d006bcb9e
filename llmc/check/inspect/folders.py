"""Folders of llmc: a run, a workspace; and folders of any other kind."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.files import describe_file
from llmc.check.inspect.reading import Options, kind_of, read_json
from llmc.check.inspect.texts import say_config, say_metrics
from llmc.check.inspect.tokens import say_recorded
from llmc.errors import LlmcError
from llmc.model import parameter_count
from llmc.paths import CHECKPOINT, CONFIG, METRICS, RECORD, Workspace
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.tokens.manifest import SPLITS, scan_manifest
from llmc.tokens.recorded import RECORD_FILE
from llmc.train.folder import read_record
from llmc.train.history import read_run
from llmc.train.metrics import Metrics
from llmc.weights.checkpoint import read_header
from llmc.weights.sources import run_weights

MOST_ENTRIES = 200


def describe_run(folder: Path, options: Options) -> Description:
    """Describe a run: its settings, metrics, tokenizer and checkpoint."""
    made = Description(folder, "run", "training run")
    settings: dict[str, Any] | None = None
    metrics = Metrics()
    if (folder / CONFIG).is_file():
        settings = say_config(made, folder / CONFIG)
    else:
        made.say("config", None, f"no {CONFIG}")
    if (folder / METRICS).is_file():
        metrics.read(folder / METRICS)
        say_metrics(made, metrics)
    else:
        made.say("metrics", None, f"no {METRICS}")
    _say_record(made, settings)
    _say_tokenizer(made)
    if (folder / CHECKPOINT).is_file():
        _add_checkpoint(made, options, settings, metrics)
    else:
        made.say("checkpoint", None, "none was saved yet")
    return made


def _say_record(made: Description, settings: dict[str, Any] | None) -> None:
    """Add the data that the run's record names, and compare its settings with config.toml's."""
    try:
        record = read_record(made.path)
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError) as error:
        made.wrong(f"cannot read {RECORD}: {safe_text(str(error))}")
        return
    if isinstance(record.get("data"), str):
        made.say("data", record["data"])
    own = record.get("settings")
    for table, values in (own if isinstance(own, dict) else {}).items():
        for name, value in values.items() if isinstance(values, dict) else ():
            there = (settings or {}).get(table, {}).get(name, value)
            if there != value:
                sentence = f"{CONFIG} was edited: {name} is {there}, and the run has {value}"
                made.wrong(safe_text(sentence))


def _say_tokenizer(made: Description) -> None:
    try:
        record = read_json(made.path / RECORD_FILE)
    except FileNotFoundError:
        made.say("tokenizer", None, "none recorded")
        return
    except ValueError as error:
        made.wrong(f"{RECORD_FILE} is broken JSON ({safe_text(str(error))})")
        return
    if isinstance(record, dict):
        say_recorded(made, made.path, record)
    else:
        made.wrong(f"{RECORD_FILE} is not a record of a tokenizer")


def _add_checkpoint(
    made: Description, options: Options, settings: dict[str, Any] | None, metrics: Metrics
) -> None:
    """Describe the checkpoint, and compare it with the settings and the metrics."""
    path = made.path / CHECKPOINT
    if kind_of(path) != "checkpoint":
        made.wrong(f"{path} is not a model checkpoint: train again")
        return
    part = describe_file(path, options)
    made.parts.append(part)
    shape, step = part.known("shape"), part.known("step")
    if settings is not None and shape is not None and shape != settings["model"]:
        made.wrong(f"{CHECKPOINT} has another shape than {CONFIG} says")
    recorded, carried = made.known("tokenizer_fingerprint"), part.known("tokenizer")
    if recorded is not None and carried is not None and recorded != carried:
        made.wrong(f"{CHECKPOINT} names another tokenizer than {RECORD_FILE}")
    if type(step) is int and metrics.steps and step > metrics.done:
        made.wrong(
            f"{CHECKPOINT} was saved at step {step:,}, and {METRICS} ends at {metrics.done:,}"
        )
    if not made.all_problems():
        offered = shlex.quote(str(run_weights(made.path)))
        talks = made.known("template") is not None
        made.hints.append(f"llmc {'chat' if talks else 'sample --decode --model'} {offered}")


def describe_workspace(folder: Path, _options: Options) -> Description:
    """Describe a workspace: its datasets, models and runs. No file is read whole."""
    made = Description(folder, "workspace", "workspace")
    place = Workspace(folder)
    tables = {
        "datasets": ("dataset", "tokenizer", ">train_tokens", ">val_tokens"),
        "models": ("model", ">parameters", "shape", "dtype"),
        "runs": ("run", ">step", ">train_loss", ">best_val_loss", ">parameters"),
    }
    rows = {
        "datasets": [_dataset(made, path) for path in _folders(place.data)],
        "models": [_model(made, path) for path in _checkpoints(place.models)],
        "runs": [_run(made, path) for path in _folders(place.runs)],
    }
    for name, found in rows.items():
        made.say(f"{name}_count", len(found))
        made.table(name, tables[name], found)
    if not any(rows.values()):
        made.hints.append("llmc prepare stdlib")
    return made


def describe_plain_folder(folder: Path, _options: Options) -> Description:
    """Describe a folder that is not a dataset, run, model or workspace: the kinds of its files."""
    made = Description(folder, "folder", "folder of files")
    paths = sorted(folder.iterdir())
    made.say("entries", len(paths))
    rows = [_entry(path) for path in paths[:MOST_ENTRIES]]
    made.table("files", ("name", "kind", ">bytes"), rows, total=len(paths))
    return made


def _entry(path: Path) -> tuple[str, str, int | None]:
    try:
        if path.is_dir():
            return path.name, "folder", None
        return path.name, kind_of(path), path.stat().st_size
    except OSError as error:
        return path.name, safe_text(error.strerror or "unreadable"), None


def _folders(place: Path) -> Iterator[Path]:
    """Yield the folders in ``place``; hidden ones are unfinished work."""
    if place.is_dir():
        yield from (p for p in sorted(place.glob("[!.]*")) if p.is_dir())


def _checkpoints(place: Path) -> Iterator[Path]:
    for path in sorted(place.glob("*")):
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
                made.wrong(f"{folder / shard['file']} is gone: run 'llmc tokenize PATH' again")
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
