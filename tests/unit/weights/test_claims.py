"""Weights whose headers claim more than any model has, or more than their file holds."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmc.errors import BadData
from llmc.model import LARGEST
from llmc.weights import gguf_header
from llmc.weights.base import Origin
from llmc.weights.checkpoint import HEADER_BYTES, MAGIC, read_header, write_checkpoint
from llmc.weights.gguf_header import read_gguf
from llmc.weights.huggingface import read_config
from llmc.weights.safetensors import read_safetensors
from llmc.weights.sources import open_weights
from tests.helpers.models import SMALL, some_tensors
from tests.unit.weights.test_torch import ARGS, linear

BEYOND = (2**31 - 1, 2**32, 2**40, 2**63)


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def gguf(*entries: bytes, tensors: int = 0, keys: int | None = None) -> bytes:
    count = len(entries) if keys is None else keys
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + b"".join(entries)


def array(kind: int, count: int) -> bytes:
    return text(b"x") + struct.pack("<IIQ", 9, kind, count)


@pytest.mark.parametrize(
    "data",
    [
        *(gguf(array(kind, count)) for kind in (0, 5, 8, 12) for count in (2**24, 2**40, 2**63)),
        gguf(text(b"x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000),
        gguf(keys=1 << 60),
        gguf(tensors=1 << 60),
        gguf(text(b"x") + struct.pack("<IQ", 8, 1 << 40)),
        gguf(struct.pack("<Q", 1 << 63)),
    ],
)
def test_counts_of_a_gguf_file_are_compared_with_it(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(data)
        file.truncate(1 << 34)  # a file with a hole: it "holds" what it promises
    with pytest.raises(BadData, match=str(path)):
        read_gguf(path)


def test_a_gguf_file_has_at_most_so_many_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(array(0, 100) + bytes(100)))
    assert read_gguf(path).metadata["x"].items == (0,) * 100
    monkeypatch.setattr(gguf_header, "MOST_ITEMS", 99)
    with pytest.raises(BadData, match="100 items"):
        read_gguf(path)


@pytest.mark.parametrize("name", ["n_layer", "n_embd", "n_head", "n_positions", "vocab_size"])
@pytest.mark.parametrize("value", [*BEYOND, -1, 0, 10**19])
def test_dimensions_of_a_config_are_those_of_a_model(name: str, value: int, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    shape = {"n_layer": 1, "n_embd": 8, "n_head": 1, "n_positions": 8, "vocab_size": 8}
    path.write_text(json.dumps(shape))
    assert read_config(path).layers == 1
    path.write_text(json.dumps({**shape, name: value}))
    with pytest.raises(BadData, match=str(path)):
        read_config(path)


def test_dimensions_of_a_checkpoint_are_those_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for at in range(2, 7):
        shape = [MAGIC, 3, 8, 8, 1, 1, 8, 128]
        shape[at] = 2**31 - 1
        path.write_bytes(struct.pack("<8i", *shape).ljust(HEADER_BYTES, b"\0"))
        with pytest.raises(BadData, match="at most"):
            read_header(path)


@pytest.mark.parametrize("shape", [[1] * 9, [2**62] * 40_000])
def test_a_tensor_has_few_dimensions(shape: list[int], tmp_path: Path) -> None:
    entry = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
    header = json.dumps(entry).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(BadData, match="dimensions"):
        read_safetensors(path)


def test_a_step_and_a_loss_that_no_run_has_are_not_kept(tmp_path: Path) -> None:
    for step, loss in (("9" * 5000, "1e400"), (2**32, 1e39), (-1, "nan"), ("1e400", [1])):
        assert Origin.of({"llmc.step": step, "llmc.val_loss": loss}) == Origin()
    assert Origin.of({"llmc.step": "7", "llmc.val_loss": "2.5"}) == Origin(7, 2.5)
    origin = Origin.possible(2**32 - 1, 1e29)
    write_checkpoint(
        tmp_path / "x.bin",
        SMALL,
        some_tensors(SMALL).items(),
        step=origin.step,
        val_loss=origin.val_loss,
    )


def nanogpt(**changes: Any) -> dict[str, Any]:
    return {"model": linear(""), "model_args": ARGS | changes, "iter_num": 7}


def saved(path: Path, value: Any) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(value, path)
    return path


@pytest.mark.parametrize("name", ["n_layer", "n_embd", "n_head", "block_size", "vocab_size"])
@pytest.mark.parametrize(
    "value", [*BEYOND, pytest.param(1 << 20_000, id="long"), 0, -1, 1.5, "2", None, [1]]
)
def test_dimensions_of_a_nanogpt_are_those_of_a_model(
    name: str, value: Any, tmp_path: Path
) -> None:
    path = saved(tmp_path / "ckpt.pt", nanogpt(**{name: value}))
    with pytest.raises(BadData, match=str(path)):
        open_weights(path)


@pytest.mark.parametrize("change", [{"iter_num": 1 << 80}, {"best_val_loss": 1e300}])
def test_a_nanogpt_may_claim_any_step_and_loss(change: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "ckpt.pt", nanogpt() | change)
    origin = open_weights(path).origin
    assert origin.val_loss is None and origin.step in (0, 7)


def test_a_tensor_of_torch_has_all_its_numbers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = linear()
    state["transformer.wte.weight"] = torch.zeros(1, 1).expand(
        LARGEST["vocab_size"], SMALL.channels
    )
    path = saved(tmp_path / "x.pt", state)
    with pytest.raises(BadData, match="fewer numbers"):
        open_weights(path)


def deflated(source: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        items = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in items:
            archive.writestr(name, data)


def overlapping(source: Path) -> None:
    data = source.read_bytes()
    at = data.index(b"PK\x01\x02")  # the first entry of the directory, twice
    end = data.index(b"PK\x01\x02", at + 4)
    tail = bytearray(data[data.rindex(b"PK\x05\x06") :])
    count, size = struct.unpack_from("<H", tail, 8)[0], struct.unpack_from("<I", tail, 12)[0]
    more = data[at:end] * 300
    struct.pack_into("<HHI", tail, 8, count + 300, count + 300, size + len(more))
    source.write_bytes(data[:at] + more + data[at : at + size] + tail)


@pytest.mark.parametrize("spoil", [deflated, overlapping])
def test_an_archive_of_torch_does_not_grow(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", linear())
    spoil(path)
    with pytest.raises(BadData, match=str(path)):
        open_weights(path)
