"""GGUF, held against the gguf package's own reader; what is not a GPT-2 is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from llmc.errors import BadData, MissingOutput
from llmc.model import ModelConfig
from llmc.text.documents import ENDOFTEXT
from llmc.tokens.bpe import train_bpe
from llmc.tokens.byte_level import Vocabulary, merges_of
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.base import Origin
from llmc.weights.checkpoint import CheckpointModel, write_checkpoint
from llmc.weights.gguf import NAMES, GgufModel, gguf_bytes, write_gguf
from llmc.weights.gguf_header import read_gguf
from tests.helpers.models import RAGGED, SMALL, some_tensors

ORIGIN = Origin(7, 2.5, bytes(range(32)))
KEYS: dict[str, Any] = {
    "gpt2.context_length": SMALL.context,
    "gpt2.embedding_length": SMALL.channels,
    "gpt2.block_count": SMALL.layers,
    "gpt2.feed_forward_length": 4 * SMALL.channels,
    "gpt2.attention.head_count": SMALL.heads,
}


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(["she sells sea shells, " * 50 + "größer 日本"], 280)


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    tokens = tokenizer.tokens()
    return Vocabulary((*tokens, ENDOFTEXT.encode()), (tokenizer.eot,), merges_of(tokens))


def written(folder: Path, config: ModelConfig, kind: str, tokenizer: Tokenizer) -> Path:
    model = folder / "model.bin"
    write_checkpoint(model, config, some_tensors(config).items())
    path = folder / "model.gguf"
    words = vocabulary(tokenizer)
    write_gguf(path, CheckpointModel(model), kind, words, name="poet", origin=ORIGIN)
    return path


@pytest.mark.parametrize(
    ("config", "kind"),
    [(SMALL, "F32"), (SMALL, "F16"), (SMALL, "BF16"), (SMALL, "Q8_0"), (RAGGED, "F16")],
)
def test_the_packages_reader_finds_everything(
    config: ModelConfig, kind: str, tmp_path: Path, bpe: Tokenizer
) -> None:
    path = written(tmp_path, config, kind, bpe)
    reader = GGUFReader(path)

    def value(key: str) -> Any:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    assert value("general.architecture") == "gpt2"
    assert value("general.file_type") == {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}[kind]
    assert value("gpt2.context_length") == config.context
    assert value("gpt2.embedding_length") == config.channels
    assert value("gpt2.block_count") == config.layers
    assert value("gpt2.feed_forward_length") == 4 * config.channels
    assert value("gpt2.attention.head_count") == config.heads
    assert value("gpt2.attention.layer_norm_epsilon") == pytest.approx(1e-5)
    assert value("tokenizer.ggml.model") == "gpt2"
    assert value("tokenizer.ggml.pre") == "gpt-2"
    assert value("tokenizer.ggml.eos_token_id") == value("tokenizer.ggml.bos_token_id") == bpe.eot
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == config.vocab_size
    assert kinds == [1] * 279 + [3] + [5] * (config.vocab_size - 280)
    assert tokens[279] == ENDOFTEXT
    assert tokens[0x20] == "Ġ"
    assert len(value("tokenizer.ggml.merges")) == 280 - 257

    ours = some_tensors(config)
    assert len(reader.tensors) == 4 + 12 * config.layers
    for tensor in reader.tensors:
        assert tensor.data_offset % 32 == 0
        layer = int(tensor.name.split(".")[1]) if tensor.name.startswith("blk.") else None
        (name,) = (n for n, t in NAMES.items() if t.format(layer) == tensor.name)
        values = ours[name] if layer is None else ours[name][layer]
        values = values[: config.vocab_size] if name == "wte" else values
        matrix = values.ndim == 2 and name != "wpe"
        assert tensor.tensor_type.name == (kind if matrix else "F32")
        wanted = dequantize(quantize(values, tensor.tensor_type), tensor.tensor_type)
        np.testing.assert_array_equal(dequantize(tensor.data, tensor.tensor_type), wanted)
    last = reader.tensors[-1]
    assert path.stat().st_size == last.data_offset + -(-last.n_bytes // 32) * 32
    assert sum(t.n_bytes for t in reader.tensors) == gguf_bytes(config, kind)


def test_a_tokenizer_of_bytes_has_a_merge_that_never_happens(tmp_path: Path) -> None:
    from llmc.tokens.tokenizer import load_tokenizer

    path = written(tmp_path, SMALL, "F32", load_tokenizer("byte"))
    found = GgufModel(path).tokenizer()
    assert isinstance(found, Tokenizer)
    assert (found.name, found.vocab_size) == ("byte", 257)
    field = GGUFReader(path).get_field("tokenizer.ggml.merges")
    assert field is not None
    assert field.contents() == ["<|endoftext|> <|endoftext|>"]


def test_ours_reads_what_it_wrote(tmp_path: Path, bpe: Tokenizer) -> None:
    model = GgufModel(written(tmp_path, RAGGED, "F32", bpe))
    assert (model.config, model.origin) == (RAGGED, ORIGIN)
    assert model.tokenizer() == bpe
    for name, values in model.tensors():
        np.testing.assert_array_equal(values, some_tensors(RAGGED)[name][: len(values)])


def foreign(path: Path, changes: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """Write a GPT-2 with the package alone, as llama.cpp's converter would."""
    writer = GGUFWriter(path, changes.pop("architecture", "gpt2"))
    for key, value in (KEYS | changes).items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    ours = some_tensors(SMALL)
    arrays = {
        theirs.format(layer): ours[name][layer] if "{}" in theirs else ours[name]
        for name, theirs in NAMES.items()
        for layer in range(SMALL.layers if "{}" in theirs else 1)
    }
    for name, values in (arrays | tensors).items():
        if isinstance(values, tuple):
            writer.add_tensor(name, values[0], raw_dtype=values[1])
        elif values is not None:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_head_that_is_the_embedding_changes_nothing(tmp_path: Path) -> None:
    wte = some_tensors(SMALL)["wte"]
    path = foreign(tmp_path / "a.gguf", {}, {"output.weight": wte})
    model = GgufModel(path)
    np.testing.assert_array_equal(dict(model.tensors())["wte"], wte)
    assert model.tokenizer() is None
    other = foreign(tmp_path / "b.gguf", {}, {"output.weight": wte + 1})
    with pytest.raises(BadData, match=r"output\.weight differs"):
        next(GgufModel(other).tensors())


@pytest.mark.parametrize(
    ("changes", "tensors", "reason"),
    [
        ({"architecture": "llama"}, {}, "architecture 'llama', not 'gpt2'"),
        ({"gpt2.block_count": 3}, {}, r"no tensor blk\.2\.attn_norm"),
        ({"gpt2.block_count": 1}, {}, r"a tensor blk\.1\.attn_norm"),
        ({"gpt2.block_count": None}, {}, r"no gpt2\.block_count"),
        ({"gpt2.attention.head_count": 7}, {}, "heads do not divide"),
        ({"gpt2.feed_forward_length": 100}, {}, "feed_forward_length is 100"),
        ({"gpt2.attention.layer_norm_epsilon": 1e-6}, {}, "layer_norm_epsilon is"),
        ({"gpt2.context_length": 63}, {}, r"position_embd\.weight has the shape"),
        ({}, {"token_embd.weight": None}, r"no tensor token_embd\.weight"),
        ({}, {"blk.0.ffn_up.bias": None}, r"no tensor blk\.0\.ffn_up\.bias"),
        ({}, {"rope_freqs.weight": np.ones(4, np.float32)}, "a tensor rope_freqs"),
        (
            {},
            {
                "blk.0.ffn_up.weight": (
                    quantize(np.ones((256, 64), np.float32), GGMLQuantizationType.Q4_0),
                    GGMLQuantizationType.Q4_0,
                )
            },
            "is of type Q4_0; llmc reads F32, F16, BF16, Q8_0",
        ),
    ],
)
def test_another_model_is_refused(
    changes: dict[str, Any], tensors: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = foreign(tmp_path / "model.gguf", dict(changes), tensors)
    with pytest.raises(BadData, match=reason) as caught:
        GgufModel(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path, bpe: Tokenizer) -> None:
    whole = written(tmp_path, SMALL, "F16", bpe).read_bytes()
    path = tmp_path / "cut.gguf"
    for keep in (0, 3, 8, 20, 100, 1000, 5000, 9000, len(whole) // 2, len(whole) - 300):
        path.write_bytes(whole[:keep])
        with pytest.raises(BadData, match=r"damaged or not a GGUF file|cut short"):
            GgufModel(path)


def test_bytes_thrown_about_are_refused_or_read(tmp_path: Path, bpe: Tokenizer) -> None:
    """No damage to the header leads to anything but one clear error, or a readable file."""
    whole = bytearray(written(tmp_path, SMALL, "F32", bpe).read_bytes()[:4096])
    rest = (tmp_path / "model.gguf").read_bytes()[4096:]
    path = tmp_path / "broken.gguf"
    generator = np.random.default_rng(2)
    for _ in range(60):
        broken = bytearray(whole)
        for at in generator.integers(4, len(whole), 3):
            broken[at] = generator.integers(256)
        path.write_bytes(bytes(broken) + rest)
        try:
            GgufModel(path).tokenizer()
        except BadData:
            continue


def test_no_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingOutput):
        read_gguf(tmp_path / "none.gguf")
