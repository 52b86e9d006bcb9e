"""Text files (JSON, metrics, settings, prose), zip archives, and files that llmc does not read."""

from __future__ import annotations

import json
import math
import shlex
import tomllib
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import (
    Description,
    byte_count,
    quoted,
    safe_bytes,
    safe_text,
)
from llmc.check.inspect.reading import LARGEST_TEXT, Asked, read_json
from llmc.config import load_preset
from llmc.errors import LlmcError
from llmc.kinds import HEAD_BYTES, not_data
from llmc.train.curves import sparkline
from llmc.train.metrics import Metrics

READS = (
    "llmc inspects token files, model checkpoints, debug states, tokenizers, safetensors, GGUF, "
    "datasets, runs, Hugging Face folders and workspaces; 'llmc tokenize' reads text"
)
SPARKS = 40
# A kind: its title, and what to do with it.
FOREIGN = {
    "gzip": ("gzip-compressed data", "'llmc tokenize' reads the text in it"),
    "zstd": ("Zstandard-compressed data", "'llmc tokenize' reads the text in it"),
    "bzip2": ("bzip2-compressed data", "'llmc tokenize' reads the text in it"),
    "xz": ("xz-compressed data", "'llmc tokenize' reads the text in it"),
    "parquet": ("a Parquet table", "'llmc tokenize' reads its text column"),
    "pdf": ("a PDF document", "extract its text first"),
    "elf": ("a program", "llmc does not read it"),
    "npy": ("a NumPy array", "write tokens as raw uint16 to use them (--dtype)"),
    "tar": ("a tar archive", "'llmc tokenize' reads the text in it"),
    "pickle": ("a Python pickle, as older PyTorch files are", "not opened: it can run any program"),
    "empty": ("an empty file", ""),
    "html": ("a web page", ""),
    "lfs": ("a git-lfs pointer", ""),
}


def say_metrics(made: Description, found: Metrics) -> None:
    """Add the losses of a run, its length and how it ended."""
    made.note("metrics_lines", found.lines)
    losses = list(zip(found.steps, found.measured["train_loss"], strict=True))
    for name, points in (("train_loss", losses), ("val_loss", found.val)):
        if not points:
            continue
        finite = [point for point in points if math.isfinite(point[1])]
        best = min(finite, key=lambda point: point[1], default=None)
        fields = {"first": points[0][1], "last": points[-1][1]}
        shown = f"{points[0][1]:.4f} → {points[-1][1]:.4f}"
        if best is not None:
            fields |= {"best": best[1], "best_step": best[0]}
            shown += f", best {best[1]:.4f} at step {best[0]:,}"
        made.say(name, fields, f"{shown}  {sparkline([y for _, y in points], SPARKS)}")
    if found.steps:
        made.say("steps", found.done)
    for name, unit in (("tokens_per_second", "tokens/s"), ("lr", ""), ("grad_norm", "")):
        value = found.measured[name][-1] if found.steps else math.nan
        if not math.isnan(value):
            shown = f"{value:,.0f} {unit}" if unit else f"{value:.4g}"
            made.say(name, value, f"{shown} at the last step")
    if found.skipped:
        made.say("skipped", len(found.skipped), f"{len(found.skipped):,} updates skipped")
    if found.end is not None:
        made.say("ended", found.end["reason"], safe_text(found.end["reason"], 40))
    if found.cut:
        made.say("cut", True, "the last line is half a line: it was killed while it was written")
    if found.problem is not None:
        made.wrong(found.problem)


def describe_json(path: Path, asked: Asked) -> Description:
    """Describe a JSON file, or one with an object on every line.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "json", "JSON")
    size = made.say_bytes()
    first = _head(path).splitlines()[:2]
    if len(first) == 2 and _is_object(first[0]) and first[1].startswith(b"{"):
        return _describe_lines(made, first[0])
    try:
        value = read_json(path)
    except ValueError as error:
        if size > LARGEST_TEXT:
            made.say("content", None, f"not read: {error}")
            return made
        made.wrong(f"it is broken JSON: {safe_text(str(error))}")
        return made
    if isinstance(value, list):
        made.say("entries", len(value), f"a list of {len(value):,}")
        return made
    if isinstance(value, dict):
        made.title = _json_title(value)
        made.say(
            "keys", list(value)[:40], ", ".join(safe_text(str(key), 40) for key in list(value)[:20])
        )
        rows = [
            (key, item) for key, item in value.items() if isinstance(item, str | int | float | None)
        ]
        made.table("values", ("key", "value"), rows[:40], left_out=max(0, len(rows) - 40))
    return made


def _describe_lines(made: Description, first: bytes) -> Description:
    if not {"train_loss", "val_loss"}.isdisjoint(json.loads(first)):
        made.kind, made.title = "metrics", "metrics of a run: a JSON object a line"
        metrics = Metrics()
        metrics.read(made.path)
        say_metrics(made, metrics)
        return made
    made.kind, made.title = "jsonl", "JSON lines: an object a line"
    made.say("first", json.loads(first), safe_bytes(first, 100))
    made.hints.append(f"llmc tokenize {shlex.quote(str(made.path))}")
    return made


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_title(value: dict[str, Any]) -> str:
    """Return the title of a JSON table, from its keys."""
    known = (
        ({"weight_map"}, "index of a sharded model (Hugging Face)"),
        ({"model_type"}, "configuration of a model (Hugging Face)"),
        ({"fingerprint", "name"}, "a run's record of its tokenizer"),
        ({"model", "added_tokens"}, "tokenizer (Hugging Face)"),
        ({"train_loss"}, "metrics of a run"),
    )
    if set(value) == {"model"} and isinstance(value["model"], str):
        return "a dataset's record of the model it was prepared with"
    return next((title for keys, title in known if keys <= set(value)), "JSON")


def describe_text(path: Path, asked: Asked) -> Description:
    """Describe text: settings in TOML, or prose to tokenize.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix == ".toml":
        made = Description(path, "config", "settings in TOML")
        made.say_bytes()
        say_config(made, path)
        return made
    made = Description(path, "text", "text")
    made.say_bytes()
    head = _head(path)[:400]
    made.say("begins", head.decode(errors="replace"), quoted(head))
    made.hints.append(f"llmc tokenize {shlex.quote(str(path))}")
    return made


def say_config(made: Description, path: Path) -> dict[str, Any] | None:
    """Add the settings of a preset or a run's config; return them, or None if it is broken.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_size > LARGEST_TEXT:
        made.wrong(f"{path.name} is too large to be settings")
        return None
    try:
        preset = load_preset(str(path))
    except (LlmcError, RecursionError, tomllib.TOMLDecodeError, ValueError) as error:
        made.wrong(f"its settings are broken: {safe_text(str(error), None)}")
        return None
    settings = asdict(preset)
    made.note("settings", settings)
    train = settings["train"]
    made.tell(
        "training",
        f"{train['steps']:,} steps, B {train['batch_size']:,}, T {train['seq_len']:,}, "
        f"lr {train['lr']:g}, seed {train['seed']}, {train['dtype']}",
    )
    return settings


def describe_zip(path: Path, asked: Asked) -> Description:
    """Describe a zip archive: PyTorch's checkpoints are one. Nothing in it is unpacked.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "zip", "zip archive")
    made.say_bytes()
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        made.wrong(f"its directory is broken or missing ({safe_text(str(error))}): get it again")
        return made
    data = [item for item in items if "/data/" in item.filename]
    if any(item.filename.endswith("/data.pkl") for item in items):
        made.kind, made.title = "pytorch", "PyTorch file: a pickle and its tensors"
        made.say("tensors", len(data), f"{len(data):,} blocks of data")
        total = sum(item.file_size for item in data)
        made.say("tensor_bytes", total, byte_count(total))
        made.say("pickle", "not opened", "not opened: a pickle can run any program")
    else:
        names = ", ".join(safe_text(item.filename, 40) for item in items[:8])
        made.say("entries", len(items), f"{len(items):,}: {names}")
    return made


def describe_other(path: Path, kind: str) -> Description:
    """Describe a file of a kind that llmc does not read.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, kind, "a file that llmc does not know")
    if kind == "special":
        made.title = "a device, a pipe or a socket"
        made.wrong("it is no regular file: name a file or a folder")
        return made
    head = _head(path)
    made.say_bytes()
    if kind in FOREIGN:
        made.title, advice = FOREIGN[kind]
        if advice:
            made.say("for_llmc", advice)
        if (sentence := not_data(head, "it")) is not None:
            made.wrong(sentence)
        if kind == "empty":
            made.wrong("it is empty: the program that made it did not finish; make it again")
        return made
    made.say("first_bytes", head[:16].hex(" "))
    made.say("as_text", safe_bytes(head[:32]), quoted(head[:32]))
    numbers = [int.from_bytes(head[i : i + 4], "little") for i in range(0, min(16, len(head)), 4)]
    made.say("as_numbers", numbers, f"{', '.join(map(str, numbers))} (int32)")
    made.wrong(
        f"it begins like nothing that llmc reads (a token file without a header needs "
        f"--dtype uint16 or int32); {READS}"
    )
    return made


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
