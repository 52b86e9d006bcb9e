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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmc import __version__
from llmc.addresses import without_secrets
from llmc.config import TrainConfig
from llmc.engine.launcher import ALONE, Launch
from llmc.engine.machine import Threads, cpu_name
from llmc.errors import BadData, LlmcError, MissingOutput
from llmc.kinds import DAMAGE, reason_of
from llmc.paths import CONFIG, RECORD, Workspace, expanded, write_json
from llmc.preset import Preset, load_preset, preset_of
from llmc.report import SILENT, Report
from llmc.tokens.files import has_mask, payload_sha256, read_tokens
from llmc.tokens.masks import mask_path
from llmc.tokens.recorded import file_of, recorded_tokenizer
from llmc.train.folder import newest_run, next_order, read_record, similar_run
from llmc.train.git import head_commit
from llmc.train.mixture import Named, Portion, place_of, recorded, whole_weights
from llmc.train.start import Data, find_data
from llmc.weights.checkpoint import read_header

Record = Mapping[str, Any]
Texts = tuple[Named, ...] | None
Hash = tuple[int, str, int, str | None]  # tokens, SHA-256, number of its text, the mask's SHA-256
Hashes = dict[str, list[Hash]]
DONE_ON = {"train": "trained", "val": "validated"}
PLACES = ("data", "val_data")


@dataclass(frozen=True)
class Setup:
    """The engine, in a folder named by the hash of its build, and how it runs on this machine."""

    binary: Path
    isa: str
    threads: Threads
    launch: Launch = ALONE


def new_record(
    workspace: Workspace, data: Data, model: Path, setup: Setup, preset: Preset
) -> Record:
    """Return the ``run.json`` of a new run.

    Raises:
        BadData: a token file cannot be read.
    """
    return {
        **_session(setup, preset.train),
        "dtype": preset.train.dtype,
        "git": {"commit": commit} if (commit := head_commit(workspace.root)) else None,
        "recipe": preset.name,
        "settings": _settings(preset),
        **_places(workspace, data),
        "model": os.path.relpath(model, workspace.root),
        "weights_crc32": weights_checksum(model),
        "files": fingerprints(data),
        "manifest": _manifests(data),
        "resumes": [],
    }


def resumed_record(
    record: Record, step: int | None, setup: Setup, preset: Preset, changes: Record
) -> Record:
    """Return the ``run.json`` of a run that is resumed from ``step``; None: from the start.

    ``changes`` are what it continues with that it did not have before.
    """
    now = {**_session(setup, preset.train), "changes": changes}
    names = ("engine", "isa", "threads", "processes", "shares", "machines", "mpi", "launch")
    anew = {name: now[name] for name in names} if step is None else {}
    resumes = [*record.get("resumes", []), {**now, "step": step or 0}]
    return {**record, **anew, "settings": _settings(preset), "resumes": resumes}


def started_record(
    record: Record, preset: Preset, ranks: Record, changes: Record | None, *, anew: bool = False
) -> Record:
    """Return the ``run.json`` of a run that the engine has started with these ``ranks``.

    ``changes`` are those of a resume, ``anew`` one that begins again; None: the run is new.
    """
    settings = {"settings": _settings(preset)}
    if changes is None:
        return {**record, **ranks, **settings}
    *before, last = record["resumes"]
    resumes = [*before, {**last, **ranks, "changes": changes}]
    return {**record, **(ranks if anew else {}), **settings, "resumes": resumes}


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
    try:
        told = load_preset(str(file)) if file.is_file() else None
    except LlmcError as error:
        raise type(error)(
            f"{error}; correct it, or delete it: {RECORD} has the settings"
        ) from error
    return preset_of(file.stem, tables, str(folder / RECORD)), told


def _session(setup: Setup, settings: TrainConfig) -> Record:
    """Return what is recorded of every start and resume."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": without_secrets(shlex.join(["llmc", *sys.argv[1:]])),
        "llmc": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "engine": setup.binary.parent.name,
        "isa": setup.isa,
        "threads": setup.threads.most,
        "processes": 1,  # until the engine tells
        "shares": max(settings.shares, 1),
        "machines": {},
        "mpi": None,
        "launch": None,
    }


def _places(workspace: Workspace, data: Data) -> Record:
    return {"data": place_of(workspace, data.train), "val_data": place_of(workspace, data.val)}


def _manifests(data: Data) -> Any:
    """Return the manifest of the text that is trained on; of several, a list with null for none."""
    found = [part.manifest.fields() if part.manifest else None for part in data.train]
    return found if len(found) > 1 else found[0]


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

    Those of a mixture have the number of their text as ``part``, from 1 on.
    A manifest is trusted: ``find_data`` has just checked the files against it.

    Raises:
        BadData: a file cannot be read, or is not a token file.
    """
    known = {
        manifest.folder / shard.file: _without_none(asdict(shard))
        for manifest in data.manifests
        for shard in (*manifest.train.shards, *manifest.val.shards)
    }

    def fingerprint(path: Path) -> dict[str, Any]:
        tokens = len(read_tokens(path))
        found = {"file": path.name, "tokens": tokens, "sha256": payload_sha256(path)}
        mask = {"mask_sha256": payload_sha256(mask_path(path))} if has_mask(path) else {}
        return found | mask

    return {
        split: [
            (known.get(file) or fingerprint(file)) | ({"part": part} if len(portions) > 1 else {})
            for part, portion in enumerate(portions, 1)
            for file in expanded(portion.path)
        ]
        for split, portions in (("train", data.train), ("val", data.val))
    }


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def write_record(folder: Path, record: Record) -> None:
    """Write ``run.json``: the run is the newest of its workspace from now on.

    Raises:
        BadData: the place cannot be written.
    """
    write_json(folder / RECORD, {**record, "order": next_order(folder.parent)})


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
        _ = [recorded(workspace, record[key]) for key in PLACES], Path(record["model"])
        _ = _recorded_hashes(record), [*record.get("resumes", [])], {**record.get("settings", {})}
    except (*DAMAGE, OSError) as error:
        raise BadData(
            f"cannot read {folder / RECORD} ({reason_of(error)}): start a new run from its "
            "weights (--model)"
        ) from error
    return folder, record


def recorded_data(
    workspace: Workspace,
    folder: Path,
    record: Record,
    moved: tuple[Texts, Texts] = (None, None),
    report: Report = SILENT,
) -> tuple[Data, Record, Record]:
    """Return a run's data, the record with its place, and what of the data is other data.

    ``moved`` are the texts to train and to validate on, where those that were recorded are not
    meant: the same ones in another place, or other ones of the same tokenizer.

    Raises:
        MissingOutput: the data is gone.
        BadData: it is not what the run was trained on, and was not named; or it has another
            tokenizer.
    """
    own, own_val = (recorded(workspace, record[key]) for key in PLACES)
    train, val = moved[0] or own, moved[1] or (None if moved[0] else own_val)
    try:
        found = find_data(workspace, train, val)
    except MissingOutput as error:
        raise MissingOutput(f"{error}; name data that was moved with --data") from error
    expected, before = _recorded_hashes(record), tuple(Portion(t.path, t.weight) for t in own_val)
    train_only = _hashes(fingerprints(replace(found, val=()))) if moved[0] else expected
    if train_only.get("train") == expected.get("train", train_only.get("train")):
        # The run's own data. A manifest that came later may name a validation file.
        same_val = found.val if moved[1] or (own_val and found.val) else before
        found = replace(found, val=same_val)
    files = fingerprints(found)
    hashes, now, changes = _hashes(files), {**_places(workspace, found), "files": files}, {}
    for split, key, texts, had in (
        ("train", "data", found.train, own),
        ("val", "val_data", found.val or before, own_val),
    ):
        same = hashes[split] == expected.get(split, hashes[split])
        if same and whole_weights(texts) == whole_weights(had):
            continue
        if moved[0] is None and (split == "train" or moved[1] is None):
            other = ", ".join(str(text.path) for text in changed_texts(record, texts, split))
            raise BadData(
                f"{other} is not what {workspace.shown(folder)} was {DONE_ON[split]} on: make it "
                "again with 'llmc tokenize PATH', name the right data with --data, or name other "
                "data there to go on with that"
            )
        changes[key] = [record[key], now[key]]
    if changes:
        _check_tokenizer(workspace, folder, found)
        now["manifest"] = _manifests(found)
        changes["files"] = [record.get("files"), files]
    if not expected:
        report.note(f"{RECORD} is from an older llmc without hashes: the data is not checked")
    return found, {**record, **now}, changes


def changed_texts(record: Record, texts: Sequence[Portion], split: str) -> list[Portion]:
    """Return which texts of a split, "train" or "val", are not what a run was made with.

    A record of an older llmc has no hashes, and then none counts as changed.

    Raises:
        BadData: a token file cannot be read.
    """
    expected = _recorded_hashes(record).get(split)
    known = tuple(text.manifest for text in texts if text.manifest is not None)
    now = _hashes(fingerprints(Data("", tuple(texts), manifests=known)))["train"]
    return [
        text
        for part, text in enumerate(texts, 1)
        if expected is not None and _of(part, now) != _of(part, expected)
    ]


def _of(part: int, hashes: Sequence[Hash]) -> list[Hash]:
    return [each for each in hashes if each[2] == part]


def _check_tokenizer(workspace: Workspace, folder: Path, data: Data) -> None:
    """Refuse other data than the run's whose tokenizer or chat template is another one, too."""
    own = recorded_tokenizer(folder)
    if own is None or data.tokenizer is None:
        return
    if own.fingerprint == data.tokenizer.fingerprint:
        if any(made.masked for made in data.manifests) and own.template != data.tokenizer.template:
            raise BadData(
                f"the conversations of {workspace.shown(data.folder)} have another chat template "
                f"than {workspace.shown(folder)}: start a new run from its weights with --model"
            )
        return
    file = file_of(own)
    spec = own.name if file is None else workspace.shown(folder / file)
    raise BadData(
        f"{workspace.shown(data.folder)} has another tokenizer ({data.tokenizer.name}) than "
        f"{workspace.shown(folder)} ({own.name}): tokenize the text with --tokenizer {spec}"
    )


def _recorded_hashes(record: Record) -> Hashes:
    files = record.get("files")
    if files is None:  # an older llmc recorded no more than this
        manifest = record.get("manifest")
        files = {"train": manifest["train"]} if manifest else {}
    return _hashes(files)


def _hashes(files: Record) -> Hashes:
    """Return the sizes and hashes of each split's token files, and the text that each is of."""
    return {
        split: [
            (each["tokens"], each["sha256"], each.get("part", 1), each.get("mask_sha256"))
            for each in shards
        ]
        for split, shards in files.items()
    }
