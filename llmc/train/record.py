"""A run's record, enough to resume and to repeat it.

``run.json`` holds the command, the versions, the engine and its instruction set, the hashes of the
data, and where data and model lie, relative to the workspace; ``config.toml`` holds the settings.
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
from llmc.config import TRAIN_SETTINGS, Preset, TrainConfig, in_val_tokens, load_preset, overridden
from llmc.engine.process import run_quietly
from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import CONFIG, RECORD, Workspace, expanded, written_whole
from llmc.report import SILENT, Report
from llmc.tokens.files import payload_sha256, read_tokens
from llmc.train.folder import newest_run, read_record, similar_run
from llmc.train.start import Data, find_data
from llmc.weights.checkpoint import read_header

Record = Mapping[str, Any]
DONE_ON = {"train": "trained", "val": "validated"}


@dataclass(frozen=True)
class Setup:
    """The engine, in a folder named by the hash of its build, and how it runs on this machine."""

    binary: Path
    isa: str
    threads: int


def new_record(
    workspace: Workspace, data: Data, model: Path, setup: Setup, *, recipe: str, dtype: str
) -> Record:
    """Return the ``run.json`` of a new run.

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
        "manifest": data.manifest.fields() if data.manifest is not None else None,
        "resumes": [],
    }


def resumed_record(record: Record, step: int | None, setup: Setup) -> Record:
    """Return the ``run.json`` of a run that is resumed from ``step``; None: from the start."""
    now = _session(setup)
    anew = {name: now[name] for name in ("engine", "isa", "threads")} if step is None else {}
    return {**record, **anew, "resumes": [*record.get("resumes", []), {**now, "step": step or 0}]}


def _session(setup: Setup) -> Record:
    """Return what is recorded of every start and resume."""
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
    """Return the checksum of a checkpoint's weights; None for a file of llm.c, which has none.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is not a checkpoint, or a damaged one.
    """
    crc = read_header(model).crc
    return None if crc is None else f"{crc:08x}"


def fingerprints(data: Data) -> dict[str, list[dict[str, Any]]]:
    """Return each split's token files in order, as a manifest has them: name, tokens, SHA-256.

    A manifest is trusted: ``find_data`` has just checked the files against it.

    Raises:
        BadData: a file cannot be read, or is no token file.
    """
    known = {
        manifest.folder / shard.file: asdict(shard)
        for manifest in data.manifests
        for shard in (*manifest.train.shards, *manifest.val.shards)
    }

    def fingerprint(path: Path) -> dict[str, Any]:
        tokens = len(read_tokens(path))
        return {"file": path.name, "tokens": tokens, "sha256": payload_sha256(path)}

    return {
        split: [known.get(file) or fingerprint(file) for file in (expanded(path) if path else [])]
        for split, path in (("train", data.train), ("val", data.val))
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
        folder = newest_run(workspace, RECORD, "run to resume")
    else:
        folder = workspace.runs / name
    if name is not None and not (folder / RECORD).is_file():
        if (folder / CONFIG).exists():
            raise MissingOutput(
                f"{workspace.shown(folder)} has no {RECORD} to resume from: delete that folder, or "
                "start a new run"
            )
        raise MissingOutput(
            f"no run {workspace.shown(folder)} to resume: run 'llmc train --run {name}'"
            + similar_run(workspace, name)
        )
    try:
        record = read_record(folder)
        _ = Path(record["data"]), Path(record["val_data"] or ""), Path(record["model"])
        _ = _recorded_hashes(record), [*record.get("resumes", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(
            f"cannot read {folder / RECORD} ({error}): start a new run from its weights (--model)"
        ) from error
    preset = load_preset(str(folder / CONFIG))
    return folder, replace(preset, name=str(record.get("recipe", preset.name))), record


def resumed_settings(settings: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """Return the run's settings with the given ones put over them.

    An older llmc's run, which validates on batches, goes on doing so unless tokens are given.

    Raises:
        Usage: a setting would change that a resume must not change.
    """
    for name, value in given.items():
        old, setting = getattr(settings, name), TRAIN_SETTINGS[name]
        if value not in (None, old) and not setting.resume:
            raise Usage(
                f"the run has {setting.flag} {old}, and a resume must not change it to {value}: "
                f"leave out {setting.flag}, or start a new run from its weights with --model"
            )
    resumed = overridden(settings, given)
    by_batches = settings.val_batches and given.get("val_tokens") is None
    return resumed if by_batches else in_val_tokens(resumed, given)


def recorded_data(
    workspace: Workspace,
    folder: Path,
    record: Record,
    moved: tuple[Path | None, Path | None] = (None, None),
    report: Report = SILENT,
) -> tuple[Data, Record]:
    """Return a run's data, checked against the run's record, and the record with its place.

    ``moved`` are the token files to train and to validate on, where they are no longer where they
    were.

    Raises:
        MissingOutput: the data is gone.
        BadData: it is not what the run was trained on.
    """
    root = workspace.root
    recorded = root / record["val_data"] if record["val_data"] is not None else None
    train, val = moved[0] or root / record["data"], moved[1] or (None if moved[0] else recorded)
    try:
        found = find_data(workspace, train, val)
    except MissingOutput as error:
        raise MissingOutput(f"{error}; name data that was moved with --data") from error
    if recorded is None:  # a manifest that came later names a validation file
        found = replace(found, val=None)
    elif found.val is None:
        found = replace(found, val=recorded)
    files = fingerprints(found)
    hashes, expected = _hashes(files), _recorded_hashes(record)
    for split, path in (("train", found.train), ("val", found.val or recorded)):
        if split in expected and hashes[split] != expected[split]:
            raise BadData(
                f"{path} is not what {workspace.shown(folder)} was {DONE_ON[split]} on: name the "
                "right data with --data, make it again with 'llmc tokenize', or start a new run "
                "from the run's weights with --model"
            )
    if not expected:
        report.note(f"{RECORD} is from an older llmc without hashes: the data is not checked")
    return found, {**record, **_places(workspace, found), "files": files}


def _recorded_hashes(record: Record) -> dict[str, list[tuple[int, str]]]:
    manifest = record.get("manifest") or {}  # all that an older llmc recorded
    files = record.get("files", {"train": manifest["train"]} if manifest else {})
    return _hashes(files)


def _hashes(files: Record) -> dict[str, list[tuple[int, str]]]:
    """Return the sizes and hashes of each split's token files."""
    return {
        split: [(shard["tokens"], shard["sha256"]) for shard in shards]
        for split, shards in files.items()
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of ``folder`` and whether files differ from it; None outside git."""
    where = ["git", "-C", str(folder)]
    commit = run_quietly([*where, "rev-parse", "HEAD"])
    if commit.code != 0:
        return None
    changes = run_quietly([*where, "status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit.output.strip(), "changed": bool(changes.output.strip())}
