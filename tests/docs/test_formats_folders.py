"""docs/reference/formats.md on what llmc writes into the folders of datasets and runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.tokens import manifest
from llmc.tokens.files import write_rows
from llmc.tokens.held import character_tokenizer
from llmc.weights import state as training_state
from llmc.weights.checkpoint import read_header as read_checkpoint_header
from tests.conftest import Llmc
from tests.helpers.engine import Native, succeeded
from tests.helpers.formats_page import (
    PAGE,
    TINY,
    ints,
    raw_header,
    table,
)
from tests.helpers.models import random_tokens, save_model, save_tokens
from tests.helpers.workspace import ok, prepared_workspace, trained


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    llmc = prepared_workspace(tmp_path_factory.mktemp("line"), cache)
    trained(llmc, "--val-tokens", "200")  # several windows, which have a standard error
    return llmc


TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int, "bool": bool, "string": str, "object": dict, "list": list,
    "string or null": (str, type(None)),
    "string or list": (str, list),
    "string, list or null": (str, list, type(None)),
    "object, list or null": (dict, list, type(None)),
    "object or null": (dict, type(None)),
}  # fmt: skip


def hold(written: dict[str, Any], head: str) -> None:
    """Hold the fields of an object against a table: the names, their order, their types."""
    rows = table(head)
    assert list(written) == [row[0].strip("`") for row in rows]
    for name, kind, *_ in rows:
        assert isinstance(written[name.strip("`")], TYPES[kind]), name


def test_manifest_and_prepared(line: Llmc) -> None:
    folder = line.workspace / "data" / "texts"
    written = json.loads((folder / "manifest.json").read_text())
    hold(written, "field | type | content")
    hold(written["tokenizer"], "field of the tokenizer")
    for split in ("train", "val"):
        (file,) = written[split]
        hold(file, "field of a token file")
        payload = (folder / file["file"]).read_bytes()[1024:]
        assert hashlib.sha256(payload).hexdigest() == file["sha256"]
    (row,) = [row for row in table("field | type | content") if row[0] == "`format`"]
    assert int(row[2]) == written["format"] == manifest.FORMAT
    assert {item.name for item in fields(manifest.Manifest)} - {"folder"} == set(written) - {
        "format"
    }
    hold(json.loads((folder / "prepared.json").read_text()), "field of prepared.json")


def test_the_run_s_folder(line: Llmc) -> None:
    run = line.workspace / "runs" / "run"
    said = {row[0].strip("`") for row in table("file | content")}
    assert {path.name for path in run.iterdir()} == said - {"tokenizer.tiktoken"}
    hold(json.loads((run / "tokenizer.json").read_text()), "field of tokenizer.json")
    assert list(tomllib.loads((run / "config.toml").read_text())) == ["model", "train", "sample"]
    hold(json.loads((run / "run.json").read_text()), "field of run.json")
    (folder,) = (run / "checkpoints").iterdir()
    assert re.fullmatch(r"\d{8}", folder.name)
    assert {path.name for path in folder.iterdir()} == {"model.bin", "state.bin"}
    assert (folder / "model.bin").samefile(run / "model.bin")


def test_training_state(line: Llmc, enums: dict[str, int]) -> None:
    (path,) = (line.workspace / "runs" / "run").glob("checkpoints/*/state.bin")
    said = ints("of a training state's header")
    assert said[0].startswith(f"magic {enums['STATE_MAGIC']},")
    assert said[1].startswith(f"version {enums['STATE_VERSION']};")
    assert enums["STATE_MAGIC"] == training_state.MAGIC
    names = ("MAGIC", "VERSION", "CRC", "FLAGS", "STEP", "METRICS", "DRAWS", "SEED", "SEQ_LEN")
    more = (
        "UPDATE_TOKENS",
        "BEST",
        "SECONDS",
        "TO_BEAT",
        "WAITED",
        "SKIPPED",
        "JUDGED",
        "MOMENTS",
        "HEADER_CRC",
        "PLANNED",
        "OPTIMIZER",
        "SHARES",
    )
    places = [enums[f"STATE_{name}_AT"] for name in (*names, *more)]
    assert list(said) == places
    header, state = raw_header(path), training_state.read_training_state(path)
    assert header[:3] == [training_state.MAGIC, training_state.VERSION, state.crc]
    assert header[4] == state.step == int(path.parent.name)
    metrics = (line.workspace / "runs" / "run" / "metrics.jsonl").read_bytes()
    end = metrics.splitlines(keepends=True)[-1]
    assert header[6] == state.metrics_bytes == len(metrics) - len(end)
    doubles = [np.frombuffer(path.read_bytes(), "<f8", 1, 4 * at)[0] for at in (16, 18, 20)]
    assert doubles == [state.best_val_loss, state.seconds, state.to_beat]
    assert 0 < state.seconds <= json.loads(end)["seconds"] + 1e-3
    losses = [line.get("val_loss", math.inf) for line in map(json.loads, metrics.splitlines())]
    assert state.to_beat == pytest.approx(min(losses), rel=1e-8)
    assert (header[10], header[12], header[14]) == (state.seed, state.seq_len, state.update_tokens)
    training_state.verify_training_state(path, state)
    model = read_checkpoint_header(path.with_name("model.bin"))
    assert 2 * (model.file_bytes - 1024) == path.stat().st_size - 1024 - 2 * 128 * 8
    assert path.stat().st_size == training_state.MOMENTS_AT + 8 * (state.parameters or 0)
    ok(line("inspect", path))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    (line.workspace / "broken.bin").write_bytes(data)
    assert "its checksum is" in line("inspect", "broken.bin").stderr


def test_rows(tmp_path: Path, enums: dict[str, int]) -> None:
    said = ints("of a rows file's header")
    assert (
        said[0] == f"magic {enums['ROWS_MAGIC']}" and said[1] == f"version {enums['ROWS_VERSION']}"
    )
    places = {f"ROWS_{name}_AT": at for at, name in enumerate(("MAGIC", "VERSION", "COUNT"))}
    assert {name: enums[name] for name in places} == places and list(said) == [0, 1, 2]
    write_rows(tmp_path / "rows.bin", [(0, 5, 2), (7, 3, 1)])
    assert raw_header(tmp_path / "rows.bin")[:4] == [enums["ROWS_MAGIC"], 1, 2, 0]
    payload = np.frombuffer((tmp_path / "rows.bin").read_bytes()[1024:], "<u4")
    assert payload.tolist() == [0, 5, 2, 7, 3, 1]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_metrics_and_events(line: Llmc, native: Native, tmp_path: Path) -> None:
    said = {row[0]: names(row[1]) for row in table("line | fields")}
    text = (line.workspace / "runs" / "run" / "metrics.jsonl").read_text()
    seen = {tuple(json.loads(text)) for text in text.splitlines()}
    assert seen == {tuple(said[name]) for name in ("step", "validation", "end")}

    data = save_tokens(tmp_path / "t.bin", random_tokens(100, 257), 257)
    flags: dict[str, Any] = {
        "model": save_model(tmp_path / "m.bin", TINY),
        "data": data,
        "val_data": data,
        "batch_size": 1,
        "seq_len": 8,
        "steps": 2,
        "val_every": 1,
        "sample_every": 1,
        "sample_tokens": 4,
        "events": "json",
        "skip_grad_z": 1,
        "shuffle": 0,
    }
    timed = {**flags, "schedule": "wsd", "max_time": "0.1s"}
    del timed["steps"]
    out = tmp_path / "out"
    out.mkdir()
    spoken = [
        *events(succeeded(native("train", out=out, **flags)).stdout),
        *events(succeeded(native("train", dry_run=1, **flags)).stdout),
        *events(succeeded(native("train", **{**flags, "steps": 300, "val_every": 0})).stdout),
        *events(succeeded(native("train", **timed)).stdout),
    ]
    told = {row[0]: names(row[1]) for row in table("event | fields")}
    lines = {event["event"]: list(event) for event in spoken if "event" in event}
    lines["note"] = ["event", "text"]  # said where something is not as it should be
    lines["threads"] = ["event", "threads", "given"]  # told where fewer threads are as fast
    assert lines == {**told, **{name: said[name] for name in ("skipped", "planned", "end")}}
    assert {tuple(event) for event in spoken if "event" not in event} == {
        tuple(said[name]) for name in ("step", "validation")
    }
    start = next(event for event in spoken if event.get("event") == "start")
    parts = re.search(r"the parts add up to it: ((?:`\w+`\s*)+)", PAGE.read_text("utf-8"))
    assert parts is not None
    assert list(start["memory_parts"]) == names(parts[1])
    assert sum(start["memory_parts"].values()) == start["memory"]


def events(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(part) for part in text.splitlines())


def test_a_held_tokenizer_has_the_fields_of_its_table() -> None:
    ids = {"\n": 0, "a": 1}
    characters = character_tokenizer(ids).document
    assert characters is not None
    written = {**characters, "tokenizer": {}}
    written["characters"] = written.pop("characters")  # one of the two, in a file
    hold(written, "field of tokenizer.held.json")
