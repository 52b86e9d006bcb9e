"""inspect describes whatever a file holds: damage, cuts, random bytes, any JSON."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc.check.inspect.describe import describe
from llmc.errors import Usage
from llmc.model import ModelConfig
from llmc.tokens.bpe import train_bpe
from llmc.tokens.recorded import save_tokenizer
from llmc.tokens.tokenizer import Tokenizer
from tests.conftest import Llmc
from tests.helpers.examples import examples
from tests.helpers.foreign_files import write_gguf, write_huggingface, write_tokenizer_bin
from tests.helpers.inspecting import as_told, asked
from tests.helpers.models import save_model, save_tokens

# Damage


@pytest.fixture(scope="module")
def samples(
    line: Llmc, tmp_path_factory: pytest.TempPathFactory, byte: Tokenizer
) -> dict[str, bytes]:
    """Whole files of every kind, as bytes."""
    folder = tmp_path_factory.mktemp("samples")
    run, data = line.workspace / "runs" / "run", line.workspace / "data" / "texts"
    small = ModelConfig(layers=1, heads=1, channels=32, context=4, vocab_size=20)
    write_huggingface(folder / "hf", small)
    trained_here = train_bpe(["many words and many more words"], 262)
    save_tokenizer(trained_here, folder / "t")
    wide = save_tokens(folder / "wide", np.array([1, 70000]), 70001)
    files = {
        "tokens": data / "val.bin",
        "wide": wide,
        "checkpoint": save_model(folder / "m", small),
        "safetensors": folder / "hf" / "model.safetensors",
        "gguf": write_gguf(folder / "g", small, quantize="fcw"),
        "tokenizer.bin": write_tokenizer_bin(folder / "b", trained_here),
        "tokenizer.tiktoken": folder / "t",
        "manifest.json": data / "manifest.json",
        "metrics.jsonl": run / "metrics.jsonl",
        "config.toml": run / "config.toml",
    }
    found = {name: path.read_bytes() for name, path in files.items()}
    state = struct.pack("<4I", 20240327, 2, 1, 2).ljust(1024, b"\0") + bytes(3000)
    return found | {"debug_state": state}


SIZED = ("tokens", "wide", "checkpoint", "safetensors", "gguf", "tokenizer.bin")
EXTREMES = (0, 1, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


@settings(
    max_examples=examples(250),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(choice=st.data())
def test_damage_is_described(
    choice: st.DataObject, samples: dict[str, bytes], tmp_path: Path, byte: Tokenizer
) -> None:
    """Whatever was done to a file, there is a description, and it can be printed."""
    kind = choice.draw(st.sampled_from(sorted(samples)))
    data = bytearray(samples[kind])
    for _ in range(choice.draw(st.integers(1, 3))):
        near = st.integers(0, min(len(data), 1200))
        at = choice.draw(st.one_of(near, st.integers(0, len(data))))
        how = choice.draw(st.sampled_from(["cut", "number", "bytes", "insert", "remove"]))
        if how == "cut":
            del data[at:]
        elif how == "number":
            value = choice.draw(st.sampled_from(EXTREMES))
            width = choice.draw(st.sampled_from([4, 8]))
            at -= at % 4
            data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif how == "bytes":
            data[at : at + 4] = choice.draw(st.binary(min_size=4, max_size=4))
        elif how == "insert":
            data[at:at] = choice.draw(st.binary(min_size=1, max_size=9))
        else:
            del data[at : at + choice.draw(st.integers(1, 20))]
    path = tmp_path / (kind if "." in kind else "file")
    path.write_bytes(data)
    as_told(describe(path, asked(tmp_path, tensors=True, tokenizer=byte)))


@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(SIZED), part=st.floats(0, 1))
def test_what_is_cut_short_is_said_to_be(
    kind: str, part: float, samples: dict[str, bytes], tmp_path: Path, byte: Tokenizer
) -> None:
    """From 16 bytes on: three bytes of a magic are text like any other."""
    data = samples[kind]
    path = tmp_path / "file"
    path.write_bytes(data[: 16 + int(part * (len(data) - 17))])
    assert not as_told(describe(path, asked(tmp_path, tokenizer=byte)))["ok"]


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000))
def test_any_bytes_are_described(data: bytes, tmp_path: Path, byte: Tokenizer) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    as_told(describe(path, asked(tmp_path, tokenizer=byte)))
    with suppress(Usage):  # it is empty, or has a header after all
        as_told(describe(path, asked(tmp_path, tokenizer=byte, dtype="uint16")))


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSONS, keys=st.data())
def test_any_json_under_any_name_is_described(
    value: Any, keys: st.DataObject, tmp_path: Path, samples: dict[str, bytes]
) -> None:
    """A manifest, a config, an index, a record whose values are of any type."""
    place = keys.draw(
        st.sampled_from(
            ["manifest.json", "config.json", "model.safetensors.index.json", "tokenizer.json",
             "prepared.json", "metrics.jsonl"]
        )
    )  # fmt: skip
    whole = json.loads(samples["manifest.json"])
    if isinstance(value, dict) or keys.draw(st.booleans()):
        known = {**whole, "weight_map": {}, "model": "", "n_head": 2, "name": "byte", "step": 1}
        key = keys.draw(st.sampled_from(sorted(known)))
        value = {**known, **(value if isinstance(value, dict) else {}), key: value}
    folder = tmp_path / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.toml").write_text("")
    (folder / place).write_text(json.dumps(value) + "\n")
    for path in (folder, folder / place):
        as_told(describe(path, asked(tmp_path)))


def test_what_a_header_promises_is_not_taken(
    samples: dict[str, bytes], tmp_path: Path, byte: Tokenizer
) -> None:
    path = tmp_path / "file"
    promises = []
    for kind in SIZED:
        for at in range(4, 40, 4):
            for width, value in ((4, 2**31 - 1), (8, 2**62)):
                data = bytearray(samples[kind])
                data[at : at + width] = value.to_bytes(width, "little")
                promises.append(bytes(data))
    tracemalloc.start()
    try:
        for promise in promises:
            path.write_bytes(promise)
            describe(path, asked(tmp_path, tensors=True, tokenizer=byte))
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()
