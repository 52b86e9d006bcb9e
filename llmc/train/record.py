"""A run's record, enough to resume and to repeat it.

``run.json`` holds the command, the versions, the engine and its instruction set, the hashes of the
data, the settings, and where data and model lie, relative to the workspace. ``config.toml`` has the
settings once more, as a preset for new runs: where it was edited, ``run.json`` holds.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmc import __version__
from llmc.config import Preset, load_preset, preset_of
from llmc.engine.machine import Threads
from llmc.engine.process import run_quietly
from llmc.errors import BadData, MissingOutput
from llmc.paths import CONFIG, RECORD, Workspace, expanded, write_json
from llmc.report import SILENT, Report
from llmc.tokens.files import payload_sha256, read_tokens
from llmc.tokens.tokenizer import file_of, recorded_tokenizer
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
    threads: Threads


def new_record(
    workspace: Workspace, data: Data, model: Path, setup: Setup, preset: Preset
) -> Record:
    """Return the ``run.json`` of a new run.

    Raises:
        BadData: a token file cannot be read.
    """
    return {
        **_session(setup),
        "dtype": preset.train.dtype,
        "git": git_state(workspace.root),
        "recipe": preset.name,
        "settings": _settings(preset),
        **_places(workspace, data),
        "model": os.path.relpath(model, workspace.root),
        "weights_crc32": weights_checksum(model),
        "files": fingerprints(data),
        "manifest": data.manifest.fields() if data.manifest is not None else None,
        "resumes": [],
    }


def resumed_record(
    record: Record, step: int | None, setup: Setup, preset: Preset, changes: Record
) -> Record:
    """Return the ``run.json`` of a run that is resumed from ``step``; None: from the start.

    ``changes`` are what it continues with that it did not have before.
    """
    now = {**_session(setup), "changes": changes}
    anew = {name: now[name] for name in ("engine", "isa", "threads")} if step is None else {}
    resumes = [*record.get("resumes", []), {**now, "step": step or 0}]
    return {**record, **anew, "settings": _settings(preset), "resumes": resumes}


def _settings(preset: Preset) -> Record:
    return {"train": asdict(preset.train), "sample": asdict(preset.sample)}


def run_settings(folder: Path, record: Record | None = None) -> tuple[Preset, Preset | None]:
    """Return a run's settings, and what ``config.toml`` says, which may have been edited since.

    None: it is gone, or the run is of an older llmc, which has its settings in that file alone.
    Without ``record`` that of the folder is read; one that cannot be read has no settings.

    Raises:
        Usage: a file holds something else than settings.
    """
    if record is None:
        with suppress(OSError, ValueError, TypeError):
            record = read_record(folder)
    tables, file = (record or {}).get("settings"), folder / CONFIG
    if tables is None:
        return load_preset(str(file)), None
    told = load_preset(str(file)) if file.is_file() else None
    return preset_of(file.stem, tables, str(folder / RECORD)), told


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
        "threads": setup.threads.most,
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
    write_json(folder / RECORD, record)


def resumable(workspace: Workspace, name: str | None) -> tuple[Path, Record]:
    """Return a run's folder and its record: the one named, or the newest.

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
        _ = _recorded_hashes(record), [*record.get("resumes", [])], {**record.get("settings", {})}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(
            f"cannot read {folder / RECORD} ({error}): start a new run from its weights (--model)"
        ) from error
    return folder, record


def recorded_data(
    workspace: Workspace,
    folder: Path,
    record: Record,
    moved: tuple[Path | None, Path | None] = (None, None),
    report: Report = SILENT,
) -> tuple[Data, Record, Record]:
    """Return a run's data, the record with its place, and what of the data is other data.

    ``moved`` are the token files to train and to validate on, where those that were recorded are
    not meant: the same ones in another place, or other ones of the same tokenizer.

    Raises:
        MissingOutput: the data is gone.
        BadData: it is not what the run was trained on, and was not named; or it has another
            tokenizer.
    """
    root = workspace.root
    recorded = root / record["val_data"] if record["val_data"] is not None else None
    train, val = moved[0] or root / record["data"], moved[1] or (None if moved[0] else recorded)
    try:
        found = find_data(workspace, train, val)
    except MissingOutput as error:
        raise MissingOutput(f"{error}; name data that was moved with --data") from error
    expected = _recorded_hashes(record)
    train_only = _hashes(fingerprints(replace(found, val=None))) if moved[0] else expected
    if train_only.get("train") == expected.get("train", train_only.get("train")):
        # The run's own data. A manifest that came later may name a validation file.
        val = found.val if recorded is not None and found.val is not None else recorded
        found = replace(found, val=found.val if moved[1] is not None else val)
    files = fingerprints(found)
    hashes, now, changes = _hashes(files), {**_places(workspace, found), "files": files}, {}
    for split, key, path in (
        ("train", "data", found.train),
        ("val", "val_data", found.val or recorded),
    ):
        if hashes[split] == expected.get(split, hashes[split]):
            continue
        if moved[0] is None and (split == "train" or moved[1] is None):
            raise BadData(
                f"{path} is not what {workspace.shown(folder)} was {DONE_ON[split]} on: make it "
                "again with 'llmc tokenize PATH', name the right data with --data, or name other "
                "data there to go on with that"
            )
        changes[key] = [record[key], now[key]]
    if changes:
        _check_tokenizer(workspace, folder, found)
        now["manifest"] = found.manifest.fields() if found.manifest is not None else None
        changes["files"] = [record.get("files"), files]
    if not expected:
        report.note(f"{RECORD} is from an older llmc without hashes: the data is not checked")
    return found, {**record, **now}, changes


def changed_splits(record: Record, data: Data) -> set[str]:
    """Return which of a dataset's splits, "train" and "val", are not what a run was made with.

    A record of an older llmc has no hashes, and then none counts as changed.

    Raises:
        BadData: a token file cannot be read.
    """
    expected, now = _recorded_hashes(record), _hashes(fingerprints(data))
    return {split for split, hashes in now.items() if hashes != expected.get(split, hashes)}


def _check_tokenizer(workspace: Workspace, folder: Path, data: Data) -> None:
    """Refuse other data than the run's whose tokenizer is another one, too."""
    own = recorded_tokenizer(folder)
    if own is None or data.tokenizer is None or own.fingerprint == data.tokenizer.fingerprint:
        return
    file = file_of(own)
    spec = own.name if file is None else workspace.shown(folder / file)
    raise BadData(
        f"{workspace.shown(data.folder)} has another tokenizer ({data.tokenizer.name}) than "
        f"{workspace.shown(folder)} ({own.name}): tokenize the text with --tokenizer {spec}"
    )


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
