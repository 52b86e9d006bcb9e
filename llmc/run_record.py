"""What a run was made of, in its folder: enough to go on with it, and to repeat it.

``run.json`` holds the command, the versions, the dataset's manifest and where data and model lie,
relative to the workspace; ``config.toml`` holds every setting.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc import __version__
from llmc.config import Preset, TrainConfig, load_preset, overridden
from llmc.context import Context
from llmc.errors import BadData, MissingOutput, Usage
from llmc.inputs import Data, find_data
from llmc.paths import Workspace, written_whole
from llmc.process import run_quietly
from llmc.runs import CONFIG, RECORD, newest_run

# What a resumed run may change: its length, what is told and kept, and what changes no bit.
CHANGEABLE = frozenset(
    {
        *("steps", "max_time", "max_tokens", "epochs", "patience", "min_delta"),
        *("val_every", "val_batches", "sample_every", "save_every", "keep", "recompute"),
    }
)


def write_record(folder: Path, workspace: Workspace, data: Data, model: Path) -> None:
    """Write ``run.json``.

    Raises:
        BadData: the place cannot be written.
    """

    def place(path: Path | None) -> str | None:
        return None if path is None else os.path.relpath(path, workspace.root)

    record = {
        "command": shlex.join(["llmc", *sys.argv[1:]]),
        "llmc": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_state(workspace.root),
        "data": place(data.train),
        "val_data": place(data.val),
        "model": place(model),
        "manifest": _manifest(data),
    }
    with written_whole(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def resumable(workspace: Workspace, name: str | None) -> tuple[Path, Preset, dict[str, Any]]:
    """Return a run's folder, its settings and its record: the one named, or the newest.

    Raises:
        MissingOutput: there is none.
        BadData: the record cannot be read.
    """
    if name is None:
        newest = newest_run(workspace, RECORD)
        if newest is None:
            raise MissingOutput(
                f"no run to go on with in {workspace.shown(workspace.runs)}: run 'llmc train' first"
            )
        folder = newest
    else:
        folder = workspace.runs / name
        if not (folder / RECORD).is_file() and (folder / CONFIG).exists():
            raise MissingOutput(
                f"{workspace.shown(folder)} has no {RECORD} to go on by: delete that folder, or start "
                "a new run"
            )
        if not (folder / RECORD).is_file():
            raise MissingOutput(
                f"no run {workspace.shown(folder)} to go on with: run 'llmc train --run {name}'"
            )
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _ = record["data"], record["val_data"], record["model"], record["manifest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(
            f"cannot read {folder / RECORD} ({error}): start a new run from its weights (--model)"
        ) from error
    return folder, load_preset(str(folder / CONFIG)), record


def resumed_settings(settings: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """Return the run's settings with the flags that were given put over them.

    Raises:
        Usage: a flag would make it another run.
    """
    for name, value in given.items():
        if value is None or value == getattr(settings, name) or name in CHANGEABLE:
            continue
        flag = name.replace("_", "-")
        raise Usage(
            f"the run has --{flag} {getattr(settings, name)}, and with {value} it would be another "
            f"run: leave out --{flag}, or start a new run from its weights with --model"
        )
    return overridden(settings, given)


def recorded_inputs(here: Context, folder: Path, record: Mapping[str, Any]) -> tuple[Data, Path]:
    """Return the data and the first model of a run, the data verified against the run's record.

    Raises:
        MissingOutput: the data has gone.
        BadData: it is not what the run was trained on.
    """
    root = here.workspace.root
    val = record["val_data"]
    data = find_data(here, root / record["data"], root / val if val is not None else None)
    manifest = _manifest(data)
    if manifest is not None and manifest["train"] != record["manifest"]["train"]:
        raise BadData(
            f"{data.train} is not what {here.workspace.shown(folder)} was trained on: make that "
            "again with 'llmc tokenize', or start a new run from its weights with --model"
        )
    return data, root / record["model"]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit that ``folder`` is at and whether files differ; None outside of git."""
    where = ["git", "-C", str(folder)]
    commit = run_quietly([*where, "rev-parse", "HEAD"])
    if commit.code != 0:
        return None
    changes = run_quietly([*where, "status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit.output.strip(), "changed": bool(changes.output.strip())}


def _manifest(data: Data) -> dict[str, Any] | None:
    if data.manifest is None:
        return None
    fields: dict[str, Any] = json.loads(json.dumps(data.manifest.fields()))
    return fields
