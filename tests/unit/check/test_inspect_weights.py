"""inspect on checkpoints, safetensors, GGUF and training states agrees with their own libraries."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from tests.conftest import Llmc
from tests.helpers.foreign_files import write_gguf, write_huggingface
from tests.helpers.inspecting import TINY, looked_at, told_problem
from tests.helpers.models import save_model, some_tensors

# Checkpoints


def test_a_checkpoint_and_its_tensors(tmp_path: Path) -> None:
    tensors = some_tensors(TINY)
    tensors["fcw"][0, 0, 0] = np.nan
    path = save_model(tmp_path / "m", TINY, tensors)
    told = looked_at(path, tensors=True)
    assert told["shape"] == {
        "layers": 2, "heads": 2, "channels": 32, "context": 16, "vocab_size": 257
    }  # fmt: skip
    assert (told["version"], told["dtype"], told["checksum"]) == (3, "fp32", "verified")
    assert told["problems"] == ["1 weights are not finite numbers"]
    for row in told["tensors"]:
        values = tensors[row["name"]].astype(np.float64)
        values = values[:257] if row["name"] == "wte" else values
        finite = values[np.isfinite(values)]
        assert row["mean"] == pytest.approx(finite.mean(), abs=1e-9)
        assert row["std"] == pytest.approx(finite.std())
        assert (row["min"], row["max"]) == (finite.min(), finite.max())
        assert row["NaN"] == (row["name"] == "fcw")


def test_a_tensor_that_is_cut_off_has_no_statistics(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m", TINY, some_tensors(TINY))
    os.truncate(path, path.stat().st_size - 1)
    *whole, last = looked_at(path, tensors=True)["tensors"]
    assert all(row["NaN"] == 0 for row in whole)
    assert last["name"] == "lnfb"
    assert [last[name] for name in ("mean", "NaN", "inf")] == [None, None, None]


def test_a_bf16_checkpoint_has_the_step_and_loss_it_was_saved_at(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_checkpoint(
        path, TINY, iter(some_tensors(TINY).items()), dtype="bf16", step=7, val_loss=2.5
    )
    told = looked_at(path, tensors=True)
    _, stored = read_checkpoint(path)
    assert (told["step"], told["val_loss"], told["dtype"], told["ok"]) == (7, 2.5, "bf16", True)
    rows = {row["name"]: row for row in told["tensors"]}
    assert rows["qkvw"]["std"] == pytest.approx(stored["qkvw"].std(), rel=1e-5)


def test_what_is_wrong_with_a_checkpoint(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m", TINY)
    data = path.read_bytes()

    def changed(at: int, value: int, kind: str = "<i") -> bytes:
        new = bytearray(data)
        struct.pack_into(kind, new, at, value)
        return bytes(new)

    padding = 1024 + 4 * 32 * 300
    cases = {
        data[:-5]: "5 bytes are missing",
        data + b"xy": "2 more follow",
        data[:500]: "500 bytes of its header's",
        changed(4, 2): "version 2; llmc reads 1, 3 and 5",
        changed(16, 0): "layers must be at least 1",
        changed(20, 7): "7 heads do not divide 32 channels",
        changed(28, 257): "padded to 384, not 257",
        changed(36, 9): "a newer llmc (header extension 9",
        changed(len(data) - 4, 12345): "its checksum is",
        changed(padding, 1): "values in the padding rows of wte should be zero",
        changed(24, 2**31 - 2): "channels must be at most",
    }
    for broken, sentence in cases.items():
        path.write_bytes(broken)
        problems = looked_at(path)["problems"]
        assert any(part in problem for part in sentence.split("|") for problem in problems), (
            sentence
        )
    path.write_bytes(data[:-5])
    assert looked_at(path)["whole_tensors"] == 15


def test_llm_c_s_own_checkpoint_has_nothing_to_verify(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m", TINY)
    data = bytearray(path.read_bytes())
    data[32:96] = bytes(64)
    path.write_bytes(data)
    told = looked_at(path)
    assert (told["written_by"], told["checksum"], told["ok"]) == ("llm.c", None, True)


# Others' formats


def test_safetensors_as_the_library_writes_them(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b\x1b[2J": np.array([1.5, np.nan], np.float16),
        "c": np.array([[True]]),
        "empty": np.zeros((0, 3), np.int64),
    }
    path = tmp_path / "x"
    save_file(tensors, path, {"who": "\x07me"})
    told = looked_at(path, tensors=True)
    rows = {row["name"]: row for row in told["tensors"]}
    assert {name: rows[name]["shape"] for name in tensors} == {
        name: list(value.shape) for name, value in tensors.items()
    }
    assert rows["a"]["std"] == pytest.approx(np.arange(12).std())
    assert rows["b\x1b[2J"]["NaN"] == 1
    assert told["gpt2"] is False
    assert told["metadata"] == {"who": "\x07me"}
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    assert "3 bytes are missing" in looked_at(path)["problems"][0]
    path.write_bytes(data[:20])
    assert "its header promises" in looked_at(path)["problems"][0]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_hugging_face_folder(tmp_path: Path, shards: int) -> None:
    folder = write_huggingface(tmp_path / "model", TINY, shards=shards)
    told = looked_at(folder)
    assert (told["kind"], told["gpt2"], told["problems"]) == ("huggingface", True, [])
    assert told["shape"]["heads"] == 2
    assert len(told["parts"]) == shards
    if shards > 1:
        next(folder.glob("*-00002-*")).unlink()
        told = looked_at(folder)
        assert not told["gpt2"]
        assert "and the model's index names it" in told["problems"][0]
        return
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": 9}))
    (problem,) = looked_at(folder)["problems"]
    assert "config.json" in problem and "h.2" in problem


def test_gguf_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x", TINY, quantize="fcw")
    told = looked_at(path, tensors=True)
    assert (told["gpt2"], told["architecture"], told["problems"]) == (True, "gpt2", [])
    assert told["tokenizer"]["tokens"] == 257
    reader = gguf.GGUFReader(path)
    rows = {row["name"]: row for row in told["tensors"]}
    assert len(rows) == len(reader.tensors)
    for tensor in reader.tensors:
        row = rows[tensor.name]
        assert row["type"] == tensor.tensor_type.name
        assert row["shape"] == tensor.shape.tolist()[::-1]
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-7)
        assert row["std"] == pytest.approx(values.std(), rel=1e-5)
    keys = {row["key"] for row in told["keys"]}
    assert keys == {name for name in reader.fields if not name.startswith("GGUF.")}


def test_what_is_wrong_with_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x", TINY)
    data = path.read_bytes()
    huge = struct.pack("<Q", 2**60)
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    cases = {
        data[:4] + struct.pack(">I", 3) + data[8:]: "the other byte order",
        data[:4] + struct.pack("<I", 1) + data[8:]: "its version is 1",
        data[:100]: "are left of the file",
        data[: len(data) // 2]: "bytes are missing",
        data[:8] + huge + data[16:]: "tensor",
        data[:16] + huge + data[24:]: "key",
        data[:at] + huge + data[at + 8 :]: "items, more than the file holds",
    }
    for broken, sentence in cases.items():
        path.write_bytes(broken)
        assert sentence in looked_at(path)["problems"][0]


def test_a_training_state(line: Llmc, tmp_path: Path) -> None:
    place = next((line.workspace / "runs" / "run" / "checkpoints").glob("*/state.bin"))
    told = looked_at(place)
    assert (told["kind"], told["problems"], told["step"]) == ("training_state", [], 4)
    path = tmp_path / "state.bin"
    path.write_bytes(place.read_bytes()[:-1])
    assert "cut short" in told_problem(path)
    path.write_bytes(place.read_bytes()[:-1] + b"x")
    assert "its checksum is" in told_problem(path)


def test_a_pytorch_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch oops'\ntR.")
        archive.writestr("archive/data/0", bytes(40))
    told = looked_at(path)
    assert (told["kind"], told["tensors"], told["tensor_bytes"]) == ("pytorch", 1, 40)
