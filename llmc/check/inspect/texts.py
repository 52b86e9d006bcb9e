"""Text files (JSON, metrics, settings, prose), zip archives, and files that llmc does not read."""

from __future__ import annotations

import math
import shlex
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, byte_count, quoted, safe_text
from llmc.check.inspect.reading import read_bytes, read_json
from llmc.errors import LlmcError
from llmc.kinds import HEAD_BYTES, TITLES, not_data
from llmc.parsing import LARGEST_TEXT, from_json
from llmc.preset import load_preset
from llmc.train.curves import sparkline
from llmc.train.metrics import Metrics

READS = (
    "llmc inspects token files, model checkpoints, debug states, tokenizers, safetensors, GGUF, "
    "datasets, runs, Hugging Face folders and workspaces; 'llmc tokenize' reads text"
)
SPARKS = 40
COMPRESSED = "'llmc tokenize' reads the text in it"
# What to do with a file of a kind that is in kinds.TITLES.
ADVICE = {
    "gzip": COMPRESSED,
    "zstd": COMPRESSED,
    "bzip2": COMPRESSED,
    "xz": COMPRESSED,
    "tar": COMPRESSED,
    "parquet": "'llmc tokenize' reads its text column",
    "arrow": "'llmc tokenize' reads its text column",
    "pdf": "'llmc tokenize' reads its text",
    "postscript": "extract its text first",
    "elf": "llmc does not read it",
    "npy": "write tokens as raw uint16 to use them (--dtype)",
    "pickle": "not opened: it can run any program",
    "archive": "unpack it first",
    "database": "export its text first",
    "image": "llmc does not read it",
    "media": "llmc does not read it",
    "office": "save it as text first",
}
# The keys of a JSON table, and its title; the first row whose keys are there counts.
JSON_TITLES = (
    ({"weight_map"}, "index of a sharded model (Hugging Face)"),
    ({"model_type"}, "configuration of a model (Hugging Face)"),
    ({"fingerprint", "name"}, "a run's record of its tokenizer"),
    ({"model", "added_tokens"}, "tokenizer (Hugging Face)"),
    ({"train_loss"}, "metrics of a run"),
)


def say_metrics(made: Description, found: Metrics) -> None:
    """Add the losses of a run, its length and how it ended."""
    made.note(metrics_lines=found.lines)
    trained = list(zip(found.steps, found.measured["train_loss"], strict=True))
    for name, points in (("train_loss", trained), ("val_loss", found.val)):
        if not points:
            continue
        losses = [loss for _, loss in points]
        fields: dict[str, float] = {"first": losses[0], "last": losses[-1]}
        shown = f"{losses[0]:.4f} → {losses[-1]:.4f}"
        if finite := [(loss, step) for step, loss in points if math.isfinite(loss)]:
            best, step = min(finite)
            fields |= {"best": best, "best_step": step}
            shown += f", best {best:.4f} at step {step:,}"
        made.say(name, fields, f"{shown}  {sparkline(losses, SPARKS)}")
    if found.steps:
        made.say("steps", found.done)
        forms = {"tokens_per_second": "{:,.0f} tokens/s", "lr": "{:.4g}", "grad_norm": "{:.4g}"}
        for name, form in forms.items():
            value = found.measured[name][-1]
            if not math.isnan(value):
                made.say(name, value, f"{form.format(value)} at the last step")
    if found.skipped:
        made.say("skipped", len(found.skipped), f"{len(found.skipped):,} updates skipped")
    if found.end is not None:
        made.say("ended", found.end["reason"], safe_text(found.end["reason"], 40))
    if found.cut:
        made.say("cut", True, "the last line is half a line: it was killed while it was written")
    if found.problem is not None:
        made.wrong(found.problem)


def say_json(made: Description) -> None:
    """Add the contents of a JSON file, or of one with an object on every line."""
    first, *more = _head(made.path).splitlines()[:2]
    if more and more[0].startswith(b"{") and isinstance(line := _parsed(first), dict):
        _say_lines(made, line, first)
        return
    try:
        value = read_json(made.path)
    except ValueError as error:
        if made.known("bytes") > LARGEST_TEXT:
            made.say("content", None, f"not read: {error}")
        else:
            made.wrong(f"it is broken JSON: {safe_text(str(error))}")
        return
    if isinstance(value, list):
        made.say("entries", len(value), f"a list of {len(value):,}")
    if isinstance(value, dict):
        made.title = next((title for keys, title in JSON_TITLES if keys <= set(value)), "JSON")
        if set(value) == {"model"} and isinstance(value["model"], str):
            made.title = "a dataset's record of the model it was prepared with"
        shown = ", ".join(safe_text(str(key), 40) for key in list(value)[:20])
        made.say("keys", list(value)[:40], shown)
        rows = [pair for pair in value.items() if isinstance(pair[1], str | int | float | None)]
        made.table("values", ("key", "value"), rows[:40], total=len(rows))


def _parsed(line: bytes) -> Any:
    try:
        return from_json(line)
    except ValueError:
        return None


def _say_lines(made: Description, line: dict[str, Any], raw: bytes) -> None:
    if not {"train_loss", "val_loss"}.isdisjoint(line):
        made.kind, made.title = "metrics", "metrics of a run: a JSON object a line"
        metrics = Metrics()
        metrics.read(made.path)
        say_metrics(made, metrics)
        return
    made.kind, made.title = "jsonl", "JSON lines: an object a line"
    made.say("first", line, quoted(raw, 100))
    made.hints.append(f"llmc tokenize {shlex.quote(str(made.path))}")


def say_text(made: Description) -> None:
    """Add what a text holds: settings in TOML, or prose to tokenize."""
    if made.path.suffix == ".toml":
        made.kind, made.title = "config", "settings in TOML"
        say_config(made, made.path)
        return
    made.say("begins", read_bytes(made.path, 0, 400))
    made.hints.append(f"llmc tokenize {shlex.quote(str(made.path))}")


def say_config(made: Description, path: Path) -> dict[str, Any] | None:
    """Add the settings of a preset or a run's config; return them, or None if it is broken."""
    if path.stat().st_size > LARGEST_TEXT:
        made.wrong(f"{path.name} is too large to be settings")
        return None
    try:
        settings = asdict(load_preset(str(path)))
    except (LlmcError, ValueError) as error:
        made.wrong(f"its settings are broken: {safe_text(str(error), None)}")
        return None
    made.note(settings=settings)
    form = "{steps:,} steps, B {batch_size:,}, T {seq_len:,}, lr {lr:g}, seed {seed}, {dtype}"
    made.tell("training", form.format(**settings["train"]))
    return settings


def say_zip(made: Description) -> None:
    """Add what a zip archive holds: PyTorch's checkpoints are one. Nothing in it is unpacked."""
    try:
        with zipfile.ZipFile(made.path) as archive:
            items = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        made.wrong(f"its directory is broken or missing ({safe_text(str(error))}): get it again")
        return
    if any(item.filename.endswith("/data.pkl") for item in items):
        made.kind, made.title = "pytorch", "PyTorch file: a pickle and its tensors"
        sizes = [item.file_size for item in items if "/data/" in item.filename]
        made.say("tensors", len(sizes), f"{len(sizes):,} blocks of data")
        made.say("tensor_bytes", sum(sizes), byte_count(sum(sizes)))
        made.say("pickle", "not opened", "not opened: a pickle can run any program")
    else:
        names = ", ".join(safe_text(item.filename, 40) for item in items[:8])
        made.say("entries", len(items), f"{len(items):,}: {names}")


def say_other(made: Description) -> None:
    """Add what to do with a file of a kind that llmc does not read."""
    head = _head(made.path)
    if made.kind in TITLES:
        made.title = TITLES[made.kind]
        if made.kind in ADVICE:
            made.say("for_llmc", ADVICE[made.kind])
        if (sentence := not_data(head, "it")) is not None:
            made.wrong(sentence)
        if made.kind == "empty":
            made.wrong("it is empty: the program that made it did not finish; make it again")
        return
    made.say("first_bytes", head[:16].hex(" "))
    made.say("as_text", head[:32])
    numbers = [int.from_bytes(head[i : i + 4], "little") for i in range(0, min(16, len(head)), 4)]
    made.say("as_numbers", numbers, f"{', '.join(map(str, numbers))} (int32)")
    made.wrong(
        f"it begins like nothing that llmc reads (a token file without a header needs "
        f"--dtype uint16 or int32); {READS}"
    )


def _head(path: Path) -> bytes:
    return read_bytes(path, 0, HEAD_BYTES)
