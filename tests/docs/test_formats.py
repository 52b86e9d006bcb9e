"""docs/reference/formats.md agrees with the code, and with files that the code has just written."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from llmc.check import debug_state
from llmc.model import tensor_shapes
from llmc.tokens import files as tokens
from llmc.tokens import masks
from llmc.weights import checkpoint
from llmc.weights.checkpoint import CheckpointHeader
from tests.helpers.engine import Native, succeeded
from tests.helpers.formats_page import (
    GPT2,
    LETTERS,
    PAGE,
    TABLES,
    TINY,
    evaluated,
    ints,
    number,
    raw_header,
    table,
)
from tests.helpers.models import random_tokens, save_model, save_tokens, some_tensors
from tests.helpers.places import ROOT

# Token files


def test_token_files(tmp_path: Path, enums: dict[str, int]) -> None:
    rows = {row[0]: row for row in table("kind | magic | version")}
    assert number(rows["uint16"][1]) == enums["TOKENS16_MAGIC"] == tokens.MAGIC16
    assert number(rows["uint16"][2]) == enums["TOKENS16_VERSION"] == tokens.VERSION16
    assert number(rows["uint32"][1]) == enums["TOKENS32_MAGIC"] == tokens.MAGIC32
    assert number(rows["uint32"][2]) == enums["TOKENS32_VERSION"] == tokens.VERSION32
    assert {name.removeprefix("headerless ") for name in rows} == set(tokens.WIDTHS)
    places = {
        f"TOKENS_{name}_AT": at for at, name in enumerate(("MAGIC", "VERSION", "COUNT", "MASK"))
    }
    assert {name: enums[name] for name in places} == places
    assert list(ints("of a token file")) == [0, 1, 2, 3]
    for name, vocabulary in (("uint16", 65536), ("uint32", 65537)):
        path = save_tokens(tmp_path / name, np.array([5, 6, vocabulary - 1]), vocabulary)
        _, magic, version, header_bytes, width, _ = rows[name]
        header = raw_header(path)
        assert header[:3] == [number(magic), number(version), 3]
        assert not any(header[3:])
        payload = path.read_bytes()[number(header_bytes) :]
        assert np.frombuffer(payload, f"<u{int(width[4:]) // 8}").tolist() == [5, 6, vocabulary - 1]


def test_masks(tmp_path: Path, enums: dict[str, int]) -> None:
    said = ints("of a mask's header")
    assert said[0] == f"magic {enums['MASK_MAGIC']}"
    assert said[1] == f"version {enums['MASK_VERSION']}"
    assert (enums["MASK_MAGIC"], enums["MASK_VERSION"]) == (masks.MASK_MAGIC, masks.MASK_VERSION)
    places = {f"MASK_{name}_AT": at for at, name in enumerate(("MAGIC", "VERSION", "COUNT", "CRC"))}
    assert {name: enums[name] for name in places} == places
    bits = [int(row[0]) for row in table("bit | of a token's byte")]
    assert bits == [enums[f"MASK_{name}"] for name in ("COUNTS", "CONVERSATION", "TURN")]
    assert bits == [masks.COUNTS, masks.CONVERSATION, masks.TURN]
    path = tmp_path / "train.bin"
    chunks = [(np.array([5, 6, 7]), np.array([6, 0, 1], "u1"))]
    tokens.write_tokens(path, chunks, 257, masked=True)
    assert raw_header(path)[2:5] == [3, 1, 0]
    payload = bytes([6, 0, 1])
    assert raw_header(tmp_path / "train.mask")[:5] == [
        enums["MASK_MAGIC"], 1, 3, zlib.crc32(payload), 0
    ]  # fmt: skip
    assert (tmp_path / "train.mask").read_bytes()[1024:] == payload


# Checkpoints


def test_the_header_of_a_checkpoint(tmp_path: Path, enums: dict[str, int]) -> None:
    said = ints("of a checkpoint's header")
    assert said[0] == f"magic {checkpoint.MAGIC}"
    assert enums["MODEL_MAGIC"] == checkpoint.MAGIC
    names = {2: "CONTEXT", 3: "VOCAB", 4: "LAYERS", 5: "HEADS", 6: "CHANNELS", 7: "PADDED_VOCAB"}
    assert {at: enums[f"MODEL_{name}_AT"] for at, name in names.items()} == {at: at for at in names}
    header = raw_header(save_model(tmp_path / "model.bin", TINY))
    for at in range(2, 8):
        letter = said[at].split(";")[0]
        field = LETTERS.get(letter, "padded_vocab_size")
        assert header[at] == getattr(TINY, field), letter
    assert said[7].startswith("Vp;")
    assert enums["VOCAB_MULTIPLE"] == 128


def test_the_versions_of_a_checkpoint(enums: dict[str, int]) -> None:
    rows = table("version | weights | rows of wte")
    assert [int(row[0]) for row in rows] == [
        enums[f"MODEL_{name}"] for name in ("FP32_UNPADDED", "FP32", "BF16")
    ]
    for version, weights, wte, size in rows:
        header = CheckpointHeader(GPT2, int(version))
        assert (header.dtype, header.file_bytes) == (weights, number(size))
        assert header.shapes["wte"][0] == evaluated(f"({wte.split(',')[0]})", GPT2)[0]


def test_the_order_and_the_offsets_of_the_tensors() -> None:
    rows = table("tensor | shape | offset in version 1")
    source = (ROOT / "native" / "model" / "gpt2.h").read_text()
    declared = re.findall(
        r"^  X\((\w+), (?:MATRIX|VECTOR), (MODEL|BLOCK), (.+?), (.+?)\)", source, re.M
    )
    assert [row[0] for row in rows] == [name for name, *_ in declared] == list(tensor_shapes(GPT2))
    for (name, shape, *_), (_, place, height, width) in zip(rows, declared, strict=True):
        assert evaluated(shape, GPT2) == tensor_shapes(GPT2)[name]
        letters = [part.replace(" * ", "") for part in (height, width) if part != "1"]
        assert shape == f"({', '.join((['L'] if place == 'BLOCK' else []) + letters)})"
    for column, version in ((2, 1), (3, 3), (4, 5)):
        header = CheckpointHeader(GPT2, version)
        at = checkpoint.HEADER_BYTES
        for row, dimensions in zip(rows, header.shapes.values(), strict=True):
            assert number(row[column]) == at, row
            at += math.prod(dimensions) * (2 if version == 5 else 4)


@pytest.mark.parametrize(("dtype", "version"), [("fp32", 3), ("bf16", 5)])
def test_a_written_checkpoint_has_its_tensors_there(
    dtype: str, version: int, tmp_path: Path
) -> None:
    """The page's shapes, laid one after the other, find every tensor of a file."""
    tensors = some_tensors(TINY)
    path = tmp_path / "model.bin"
    checkpoint.write_checkpoint(path, TINY, iter(tensors.items()), dtype=dtype)
    data = path.read_bytes()
    assert raw_header(path)[1] == version
    at = 1024
    for name, shape, *_ in table("tensor | shape | offset in version 1"):
        count = math.prod(evaluated(shape, TINY))
        if dtype == "fp32":
            values = np.frombuffer(data, "<f4", count, at)
            assert values.tobytes() == tensors[name].tobytes(), name
        else:
            bits = np.frombuffer(data, "<u2", count, at).astype(np.uint32) << 16
            assert np.allclose(bits.view(np.float32), tensors[name].ravel(), rtol=2**-8), name
        at += count * (4 if dtype == "fp32" else 2)
    assert at == len(data)


def test_the_extension(tmp_path: Path, enums: dict[str, int]) -> None:
    rows = {row[0]: row[1] for row in table("int | of llmc's extension")}
    assert list(rows) == ["8", "9", "10", "11", "12", "13", "14–21", "22"]
    assert rows["8"] == f"magic 0x{enums['EXT_MAGIC']:X}, the bytes `LLMC`"
    assert enums["EXT_MAGIC"].to_bytes(4, "little") == b"LLMC"
    for at, name in zip(
        range(8, 15),
        ("MAGIC", "VERSION", "CRC", "STEP", "FLAGS", "VAL_LOSS", "TOKENIZER"),
        strict=True,
    ):
        assert enums[f"EXT_{name}_AT"] == at
    assert rows["9"].startswith(f"version of the extension: {enums['EXT_VERSION']};")
    assert enums["EXT_HEADER_CRC_AT"] == checkpoint.HEADER_CRC_AT == 22
    flags = re.findall(r"(\d) the (tokenizer|validation loss)", rows["12"])
    assert flags == [
        (str(enums["EXT_HAS_TOKENIZER"]), "tokenizer"),
        (str(enums["EXT_HAS_VAL_LOSS"]), "validation loss"),
    ]
    path = tmp_path / "model.bin"
    checkpoint.write_checkpoint(
        path,
        TINY,
        iter(some_tensors(TINY).items()),
        step=77,
        val_loss=1.5,
        tokenizer=bytes(range(32)),
    )
    header, data = raw_header(path), path.read_bytes()
    assert data[32:36] == b"LLMC"
    assert header[9:13] == [2, zlib.crc32(data[1024:]), 77, 3]
    assert np.frombuffer(data, "<f4", 1, 4 * 13)[0] == 1.5
    assert data[4 * 14 : 4 * 22] == bytes(range(32))
    assert header[22] == zlib.crc32(data[:88] + bytes(4) + data[92:1024])
    assert not any(header[23:])


# debug_state


def test_debug_state(native: Native, tmp_path: Path, enums: dict[str, int]) -> None:
    said = ints("of a debug_state's header")
    assert said[0] == f"magic {enums['DEBUG_MAGIC']}" == f"magic {debug_state.MAGIC}"
    assert said[1] == f"version {enums['DEBUG_VERSION']}" == f"version {debug_state.VERSION}"
    assert [said[enums["DEBUG_BATCH_AT"]], said[enums["DEBUG_TIME_AT"]]] == ["B", "T"]
    B, T = 4, 64
    gradients = sum(math.prod(shape) for shape in tensor_shapes(GPT2).values())
    counts = {"(B, T)": B * T, "(B, T, V)": B * T * GPT2.vocab_size, "()": 1}
    at = 1024
    for part, kind, shape, offset in table("part | type | shape"):
        assert number(offset) == at, part
        assert kind in ("int32", "fp32")
        at += 4 * counts.get(shape, gradients)
    assert f"{at:,} bytes" in PAGE.read_text("utf-8")

    ids = random_tokens(2 * 5 + 1, TINY.vocab_size)
    out = tmp_path / "state.bin"
    succeeded(
        native(
            "debug-state",
            out=out,
            batch_size=2,
            seq_len=5,
            model=save_model(tmp_path / "model.bin", TINY),
            data=save_tokens(tmp_path / "tokens.bin", ids, TINY.vocab_size),
        )
    )
    header, data = raw_header(out), out.read_bytes()
    assert header[:4] == [debug_state.MAGIC, debug_state.VERSION, 2, 5]
    assert not any(header[4:])
    assert np.frombuffer(data, "<i4", 10, 1024).tolist() == ids[:-1].tolist()
    assert np.frombuffer(data, "<i4", 10, 1024 + 40).tolist() == ids[1:].tolist()
    logits = np.frombuffer(data, "<f4", 10 * TINY.vocab_size, 1024 + 80).astype(np.float64)
    logits = logits.reshape(10, -1)
    loss = np.frombuffer(data, "<f4", 1, 1024 + 80 + 4 * logits.size)[0]
    assert loss == pytest.approx(
        np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(10), ids[1:]])
    )
    tiny = sum(math.prod(shape) for shape in tensor_shapes(TINY).values())
    assert len(data) == 1024 + 80 + 4 * logits.size + 4 + 4 * tiny


# The page itself


def test_every_table_is_compared_with_something() -> None:
    """Every table is named by a test above, but for the one of contents."""
    sources = sorted(Path(__file__).parent.glob("test_formats*.py"))
    source = "\n".join(path.read_text("utf-8") for path in sources)
    heads = re.findall(r"(?:table|hold)\((?:[^()]*, )?f?\"([^\"]+)\"", source)
    heads += [f"int | {head}" for head in re.findall(r"ints\(\"([^\"]+)\"\)", source)]
    heads += re.findall(r"hold\(.*?, \"([^\"]+)\"\)$", source, re.M)
    for name in TABLES:
        contents = name == "format | content | defined by"
        assert contents or any(name.startswith(h) for h in heads), name


def test_links_and_sources_lead_somewhere() -> None:
    text = PAGE.read_text("utf-8")
    titles = re.findall(r"^## (.+)$", text, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\(#([^)]+)\)", text):
        assert link in anchors, link
    for path in re.findall(r"`((?:native|llmc|docs|tests)/[\w/.]+)`", text):
        if not path.startswith("llmc/dataloader") and not path.startswith("llmc/tokenizer.h"):
            assert (ROOT / path).exists() or path in ("docs/gguf.md",), path
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        assert re.search(r"^Sources?: ", section, re.M), section.splitlines()[0]
