"""docs/reference/formats.md on tokenizers and on the files of Hugging Face and GGUF."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import gguf

from llmc.model import tensor_shapes
from llmc.tokens.bpe import train_bpe
from llmc.tokens.tokenizer import PATTERN, Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_bin import MAGIC as TOKENIZER_BIN_MAGIC
from llmc.tokens.tokenizer_bin import read_tokenizer_bin
from llmc.weights import huggingface as hf
from llmc.weights.gguf import NAMES as GGUF_NAMES
from llmc.weights.gguf_header import SCALARS, scan_gguf
from tests.helpers.foreign_files import write_gguf, write_tokenizer_bin
from tests.helpers.formats_page import (
    GPT2,
    PAGE,
    TINY,
    evaluated,
    ints,
    raw_header,
    table,
)

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
        assert (theirs.strip("`"), transposed == "yes") == (hf.NAMES[name], name in hf.CONV1D)
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
        source = hf.NAMES[ours].format(0)
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
