"""What a run was made of, in its folder: enough to go on with it, and to repeat it.

``run.json`` holds the command, the versions, what computed, the hashes of the data, and where data
and model lie, relative to the workspace; ``config.toml`` holds every setting.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmc import __version__
from llmc.cli.context import Context
from llmc.config import Preset, TrainConfig, load_preset, overridden
from llmc.engine.process import run_quietly
from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import CONFIG, RECORD, Workspace, written_whole
from llmc.tokens.files import payload_sha256, read_tokens
from llmc.train.folder import newest_run, similar_run
from llmc.train.start import Data, find_data, token_files
from llmc.weights.checkpoint import read_header

# What a resumed run may change: its length, what is told and kept, and what changes no bit.
CHANGEABLE = frozenset(
    {
        *("steps", "max_time", "max_tokens", "epochs", "patience", "min_delta"),
        *("val_every", "val_batches", "sample_every", "save_every", "keep", "recompute"),
    }
)

Record = Mapping[str, Any]
DONE_ON = {"train": "trained", "val": "validated"}


@dataclass(frozen=True)
class Setup:
    """What computes.

    Attributes:
        binary: the engine's; its folder is named by the hash of the build.
        isa: the instruction set that it takes on this machine.
        threads: how many it computes with.
    """

    binary: Path
    isa: str
    threads: int


def new_record(
    workspace: Workspace, data: Data, model: Path, setup: Setup, *, recipe: str, dtype: str
) -> Record:
    """Return what ``run.json`` says of a run that begins.

    Raises:
        BadData: a token file cannot be read.
    """
    return {
        **_session(setup),
        "dtype": dtype,
        "git": git_state(workspace.root),
        "recipe": recipe,
        **_places(workspace, data),
        "model": os.path.relpath(model, workspace.root),
        "weights_crc32": weights_checksum(model),
        "files": fingerprints(data),
        "manifest": _manifest(data),
        "resumes": [],
    }


def resumed_record(record: Record, step: int | None, setup: Setup) -> Record:
    """Return what ``run.json`` says of a run that goes on from ``step``; None: it begins anew."""
    now = _session(setup)
    anew = {name: now[name] for name in ("engine", "isa", "threads")} if step is None else {}
    return {**record, **anew, "resumes": [*record.get("resumes", []), {**now, "step": step or 0}]}


def _session(setup: Setup) -> Record:
    """Return what is recorded of every time that a run is worked on."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["llmc", *sys.argv[1:]]),
        "llmc": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "engine": setup.binary.parent.name,
        "isa": setup.isa,
        "threads": setup.threads,
    }


def _places(workspace: Workspace, data: Data) -> Record:
    val = None if data.val is None else os.path.relpath(data.val, workspace.root)
    return {"data": os.path.relpath(data.train, workspace.root), "val_data": val}


def weights_checksum(model: Path) -> str | None:
    """Return the checksum of a checkpoint's weights; None where llm.c wrote it, without one.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is not a checkpoint, or a damaged one.
    """
    crc = read_header(model).crc
    return None if crc is None else f"{crc:08x}"


def fingerprints(data: Data) -> dict[str, list[dict[str, Any]]]:
    """Return each split's token files in order, as a manifest has them: name, tokens, SHA-256.

    A manifest is believed, for ``find_data`` has just held its files against it.

    Raises:
        BadData: a file cannot be read, or is no token file.
    """
    known = {}
    if (manifest := data.manifest) is not None:
        shards = (*manifest.train.shards, *manifest.val.shards)
        known = {manifest.folder / shard.file: asdict(shard) for shard in shards}

    def fingerprint(path: Path) -> dict[str, Any]:
        if path in known:
            return known[path]
        tokens = len(read_tokens(path))
        return {"file": path.name, "tokens": tokens, "sha256": payload_sha256(path)}

    splits = {"train": data.train, "val": data.val}
    return {
        split: [fingerprint(file) for file in token_files(path)] if path is not None else []
        for split, path in splits.items()
    }


def write_record(folder: Path, record: Record) -> None:
    """Write ``run.json``.

    Raises:
        BadData: the place cannot be written.
    """
    with written_whole(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def resumable(workspace: Workspace, name: str | None) -> tuple[Path, Preset, Record]:
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
                f"{workspace.shown(folder)} has no {RECORD} to go on by: delete that folder, or "
                "start a new run"
            )
        if not (folder / RECORD).is_file():
            raise MissingOutput(
                f"no run {workspace.shown(folder)} to go on with: run 'llmc train --run {name}'"
                + similar_run(workspace, name)
            )
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _ = Path(record["data"]), Path(record["val_data"] or ""), Path(record["model"])
        _ = _hashes(_recorded_files(record)), [*record.get("resumes", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(
            f"cannot read {folder / RECORD} ({error}): start a new run from its weights (--model)"
        ) from error
    preset = load_preset(str(folder / CONFIG))
    return folder, replace(preset, name=str(record.get("recipe", preset.name))), record


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


def recorded_data(
    here: Context, folder: Path, record: Record, data: tuple[Path | None, Path | None]
) -> tuple[Data, Record]:
    """Return a run's data, held against the run's record, and the record with its place.

    ``data`` are the token files to train and to validate on where they have been moved, else None.

    Raises:
        MissingOutput: the data has gone.
        BadData: it is not what the run was trained on.
    """
    root, shown = here.workspace.root, here.workspace.shown
    recorded = root / record["val_data"] if record["val_data"] is not None else None
    moved, moved_val = data
    try:
        found = find_data(
            here.workspace,
            moved or root / record["data"],
            moved_val or (None if moved else recorded),
        )
    except MissingOutput as error:
        raise MissingOutput(f"{error}; data that was moved is named with --data") from error
    if recorded is None:  # where a manifest came later, there is one to find
        found = replace(found, val=None)
    elif found.val is None:
        found = replace(found, val=recorded)
    files = fingerprints(found)
    hashes, expected = _hashes(files), _hashes(_recorded_files(record))
    for split, path in (("train", found.train), ("val", found.val or recorded)):
        if split in expected and hashes[split] != expected[split]:
            raise BadData(
                f"{path} is not what {shown(folder)} was {DONE_ON[split]} on: name that with "
                "--data, make it again with 'llmc tokenize', or start a new run from the run's "
                "weights with --model"
            )
    if not expected:
        here.ui.note(f"the {RECORD} of an older llmc does not tell whether the data is the same")
    return found, {**record, **_places(here.workspace, found), "files": files}


def _recorded_files(record: Record) -> Record:
    if "files" in record:
        return {**record["files"]}
    manifest = record["manifest"]  # all that an older llmc recorded
    return {} if manifest is None else {"train": manifest["train"]}


def _hashes(files: Record) -> dict[str, list[tuple[int, str]]]:
    """Return what is known of each split's token files, but for their names."""
    return {
        split: [(shard["tokens"], shard["sha256"]) for shard in shards]
        for split, shards in files.items()
    }


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
