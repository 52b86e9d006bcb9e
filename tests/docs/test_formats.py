"""docs/reference/formats.md agrees with the code, and with files that the code has just written."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llmc.check import debug_state
from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens import files as tokens
from llmc.tokens import manifest
from llmc.tokens.bpe import train_bpe
from llmc.tokens.files import write_rows
from llmc.tokens.tokenizer import PATTERN, Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_bin import MAGIC as TOKENIZER_BIN_MAGIC
from llmc.tokens.tokenizer_bin import read_tokenizer_bin
from llmc.weights import checkpoint
from llmc.weights import huggingface as hf
from llmc.weights import state as training_state
from llmc.weights.checkpoint import CheckpointHeader
from llmc.weights.checkpoint import read_header as read_checkpoint_header
from llmc.weights.gguf import NAMES as GGUF_NAMES
from llmc.weights.gguf_header import SCALARS, scan_gguf
from tests.conftest import Llmc
from tests.helpers.engine import (
    Native,
    random_tokens,
    save_model,
    save_tokens,
    some_tensors,
    succeeded,
)
from tests.helpers.foreign_files import write_gguf, write_tokenizer_bin
from tests.helpers.places import ROOT
from tests.helpers.workspace import ok, prepared_workspace, trained

PAGE = ROOT / "docs" / "reference" / "formats.md"
GPT2 = ModelConfig()
TINY = ModelConfig(layers=2, heads=2, channels=8, context=16, vocab_size=257)
LETTERS = {"L": "layers", "NH": "heads", "C": "channels", "maxT": "context", "V": "vocab_size"}


def tables() -> dict[str, list[list[str]]]:
    """Return the page's tables by their head, ``a | b``: rows of cells, without the head."""
    found = {}
    for table in re.findall(r"(?:^\|.*\n)+", PAGE.read_text("utf-8"), re.M):
        lines = [re.split(r"(?<!\\)\|", line.strip("|\n")) for line in table.splitlines()]
        rows = [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]
        head = " | ".join(rows[0])
        assert head not in found, head
        found[head] = rows[2:]
    return found


TABLES = tables()


def table(head: str) -> list[list[str]]:
    """Return the one table whose head begins so."""
    (name,) = [name for name in TABLES if name.startswith(head)]
    return TABLES[name]


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def ints(head: str) -> dict[int, str]:
    """Return what a table says of each int of a header."""
    return {int(row[0]): row[1] for row in table(f"int | {head}")}


@pytest.fixture(scope="module")
def enums() -> dict[str, int]:
    """Return the constants of native/files/format.h."""
    text = re.sub(
        r"/\*.*?\*/", "", (ROOT / "native" / "files" / "format.h").read_text(), flags=re.S
    )
    found: dict[str, int] = {}
    for name, value in re.findall(r"(\w+) = ([^,}]+?)\s*[,}]", text):
        found[name] = int(value, 0) if re.fullmatch(r"\w+", value) and value[0].isdigit() else -1
    return found


def evaluated(shape: str, config: ModelConfig) -> tuple[int, ...]:
    """Return a shape of the page, such as ``(L, 3C, C)``, in numbers."""
    values = {name: getattr(config, field) for name, field in LETTERS.items()}
    values["Vp"] = config.padded_vocab_size
    result = []
    for part in shape.strip("()").split(", "):
        match = re.fullmatch(r"(\d*)([A-Za-z]+)", part)
        assert match, shape
        result.append(int(match[1] or 1) * values[match[2]])
    return tuple(result)


def raw_header(path: Path) -> list[int]:
    return [int(value) for value in np.frombuffer(path.read_bytes()[:1024], "<u4")]


# Token files


def test_token_files(tmp_path: Path, enums: dict[str, int]) -> None:
    rows = {row[0]: row for row in table("kind | magic | version")}
    assert number(rows["uint16"][1]) == enums["TOKENS16_MAGIC"] == tokens.MAGIC16
    assert number(rows["uint16"][2]) == enums["TOKENS16_VERSION"] == tokens.VERSION16
    assert number(rows["uint32"][1]) == enums["TOKENS32_MAGIC"] == tokens.MAGIC32
    assert number(rows["uint32"][2]) == enums["TOKENS32_VERSION"] == tokens.VERSION32
    assert {name.removeprefix("headerless ") for name in rows} == set(tokens.WIDTHS)
    places = {f"TOKENS_{name}_AT": at for at, name in enumerate(("MAGIC", "VERSION", "COUNT"))}
    assert {name: enums[name] for name in places} == places
    assert list(ints("of a token file")) == [0, 1, 2]
    for name, vocabulary in (("uint16", 65536), ("uint32", 65537)):
        path = save_tokens(tmp_path / name, np.array([5, 6, vocabulary - 1]), vocabulary)
        _, magic, version, header_bytes, width, _ = rows[name]
        header = raw_header(path)
        assert header[:3] == [number(magic), number(version), 3]
        assert not any(header[3:])
        payload = path.read_bytes()[number(header_bytes) :]
        assert np.frombuffer(payload, f"<u{int(width[4:]) // 8}").tolist() == [5, 6, vocabulary - 1]


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
    assert list(rows) == ["8", "9", "10", "11", "12", "13", "14–21"]
    assert rows["8"] == f"magic 0x{enums['EXT_MAGIC']:X}, the bytes `LLMC`"
    assert enums["EXT_MAGIC"].to_bytes(4, "little") == b"LLMC"
    for at, name in zip(
        range(8, 15),
        ("MAGIC", "VERSION", "CRC", "STEP", "FLAGS", "VAL_LOSS", "TOKENIZER"),
        strict=True,
    ):
        assert enums[f"EXT_{name}_AT"] == at
    assert rows["9"].endswith(f": {enums['EXT_VERSION']}")
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
    assert header[9:13] == [1, zlib.crc32(data[1024:]), 77, 3]
    assert np.frombuffer(data, "<f4", 1, 4 * 13)[0] == 1.5
    assert data[4 * 14 : 4 * 22] == bytes(range(32))
    assert not any(header[22:])


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


# Tokenizers


def test_tokenizer_bin(tmp_path: Path) -> None:
    said = ints("of a tokenizer.bin")
    assert said[0] == f"magic {TOKENIZER_BIN_MAGIC}"
    assert said[1] == "version 2"
    path = write_tokenizer_bin(tmp_path / "tokenizer.bin", load_tokenizer("byte"))
    assert raw_header(path)[:4] == [TOKENIZER_BIN_MAGIC, 2, 257, 256]
    found = read_tokenizer_bin(path).tokens
    assert found == (*(bytes([byte]) for byte in range(256)), b"<|endoftext|>")


def by_the_page(mergeable: list[bytes]) -> str:
    """Return the fingerprint as the page defines it, from the pattern that it prints."""
    (pattern,) = re.findall(r"^```\n(.*)\n```$", PAGE.read_text("utf-8"), re.M)
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(mergeable)]
    last = f"<|endoftext|> {len(mergeable)}\n".encode()
    return hashlib.sha256(pattern.encode() + b"\n" + b"".join(lines) + last).hexdigest()


def test_the_fingerprint() -> None:
    rows = {row[0]: row for row in table("tokenizer | V | fingerprint")}
    byte = load_tokenizer("byte")
    assert PATTERN in PAGE.read_text("utf-8").splitlines()
    assert rows["`byte`"][1:] == ["257", f"`{byte.fingerprint}`"]
    assert by_the_page([bytes([value]) for value in range(256)]) == byte.fingerprint
    trained_here = train_bpe(["so much text, so many words"], 262)
    assert by_the_page(trained_here.tokens()) == trained_here.fingerprint


def test_gpt2_s_fingerprint(gpt2: Tokenizer) -> None:
    rows = {row[0]: row for row in table("tokenizer | V | fingerprint")}
    assert rows["`gpt2`"][1:] == ["50,257", f"`{gpt2.fingerprint}`"]
    assert by_the_page(gpt2.tokens()) == gpt2.fingerprint


# Hugging Face and GGUF


def test_hugging_face_s_names() -> None:
    rows = table("tensor | Hugging Face's name")
    assert [row[0] for row in rows] == list(tensor_shapes(GPT2))
    for name, theirs, shape, transposed in rows:
        assert (theirs.strip("`"), transposed == "yes") == hf.NAMES[name]
        ours = tensor_shapes(GPT2)[name]
        ours = ours[1:] if "{}" in theirs else ours
        ours = (GPT2.vocab_size, GPT2.channels) if name == "wte" else ours
        assert evaluated(shape, GPT2) == (ours[::-1] if transposed == "yes" else ours)


def test_hugging_face_s_config() -> None:
    said = {
        row[0].strip("`"): tuple(map(json.loads, re.findall(r"`(.+?)`", row[1])))
        for row in table("key of config.json")
    }
    assert said == hf.REQUIRED


def test_gguf_s_names_are_the_gguf_package_s() -> None:
    said = {row[0]: row[1].strip("`") for row in table("tensor | GGUF's name")}
    assert said == GGUF_NAMES
    known = {
        template.replace("{bid}", "{}")
        for kind in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.GPT2]
        for template in [gguf.TENSOR_NAMES[kind]]
    }
    assert {name.rpartition(".")[0] for name in said.values()} <= known
    # The package's own map from Hugging Face's names to GGUF's says the same.
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 1)
    for ours, theirs in said.items():
        source = hf.NAMES[ours][0].format(0)
        assert names.get_name(source, (".weight", ".bias")) == theirs.format(0)


def test_gguf_s_types() -> None:
    values = {row[0]: (int(row[1]), row[2]) for row in table("type of a value")}
    assert {name: item[0] for name, item in values.items()} == {
        item.name: item.value for item in gguf.GGUFValueType
    }
    widths = {
        "B": 1,
        "b": 1,
        "?": 1,
        "H": 2,
        "h": 2,
        "I": 4,
        "i": 4,
        "f": 4,
        "Q": 8,
        "q": 8,
        "d": 8,
    }
    said = {item[0]: int(item[1]) for item in values.values() if item[1] != "–"}
    assert said == {kind: widths[code] for kind, code in SCALARS.items()}
    for name, kind, block, width in table("type of a tensor"):
        item = gguf.GGMLQuantizationType[name]
        assert (item.value, *gguf.GGML_QUANT_SIZES[item]) == (int(kind), int(block), int(width))


def test_gguf_s_keys_and_bytes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", TINY)
    header, problems = scan_gguf(path)
    assert problems == []
    reader = gguf.GGUFReader(path)
    said = {row[0].strip("`"): row for row in table("key | type | value")}
    assert set(header.metadata) == set(said)
    for key, (_, kind, _) in said.items():
        assert reader.fields[key].types[0].name == kind, key
    data = path.read_bytes()
    places = [int(row[0]) for row in table("byte | of a GGUF")]
    assert places == [0, 4, 8, 16, 24]
    assert data[:4] == b"GGUF"
    assert int.from_bytes(data[4:8], "little") == 3
    assert int.from_bytes(data[8:16], "little") == len(reader.tensors) == len(header.entries)
    assert int.from_bytes(data[16:24], "little") == len(said)
    assert data[24 + 8 :].startswith(b"general.architecture")
    file_types = {
        int(n): name for n, name in re.findall(r"(\d+) (\w+)", said["general.file_type"][2])
    }
    known = {
        item.value: item.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for item in gguf.LlamaFileType
    }
    assert file_types == {number: known[number] for number in file_types}
    for tensor in reader.tensors:
        place = header.entries[tensor.name]
        assert place.start == tensor.data_offset
        assert list(place.shape) == tensor.shape.tolist()[::-1]


# What llmc itself writes into folders


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    llmc = prepared_workspace(tmp_path_factory.mktemp("line"), cache)
    trained(llmc)
    return llmc


TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int, "bool": bool, "string": str, "object": dict, "list": list,
    "string or null": (str, type(None)),
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
    assert said[1] == f"version {enums['STATE_VERSION']}"
    assert enums["STATE_MAGIC"] == training_state.MAGIC
    names = ("MAGIC", "VERSION", "CRC", "FLAGS", "STEP", "METRICS", "DRAWS", "SEED", "SEQ_LEN")
    more = ("UPDATE_TOKENS", "BEST", "SECONDS", "TO_BEAT", "WAITED", "SKIPPED", "JUDGED", "MOMENTS")
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
    assert path.stat().st_size == training_state.MOMENTS_AT + 8 * state.parameters
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
    out = tmp_path / "out"
    out.mkdir()
    spoken = [
        *events(succeeded(native("train", out=out, **flags)).stdout),
        *events(succeeded(native("train", dry_run=1, **flags)).stdout),
        *events(succeeded(native("train", **{**flags, "steps": 300, "val_every": 0})).stdout),
    ]
    told = {row[0]: names(row[1]) for row in table("event | fields")}
    lines = {event["event"]: list(event) for event in spoken if "event" in event}
    assert lines == {**told, "skipped": said["skipped"], "end": said["end"]}
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


# The page itself


def test_no_table_is_held_against_nothing() -> None:
    """Every table is named by a test above, but for the one of contents."""
    source = Path(__file__).read_text("utf-8")
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
