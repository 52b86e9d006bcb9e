"""Growing a model: rows for more tokens, and not another byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmc.check.debug_state import read_debug_state
from llmc.cli.context import Context
from llmc.model import ModelConfig
from llmc.weights.checkpoint import (
    FP32_UNPADDED,
    HEADER_BYTES,
    CheckpointHeader,
    CheckpointModel,
    read_checkpoint,
    write_checkpoint,
)
from llmc.weights.checkpoint import _packed as packed
from llmc.weights.grow import GrownWeights
from llmc.weights.number_types import from_bf16, to_bf16
from llmc.weights.sources import open_weights
from tests.helpers import engine
from tests.helpers.export import export

FULL = engine.SMALL  # its rows are a multiple of 128: new ones make the file grow
PADDED = engine.RAGGED  # its padding rows are enough


def unpadded(path: Path, config: ModelConfig) -> Path:
    """Write llm.c's first version, which does not pad the vocabulary."""
    tensors = engine.some_tensors(config)
    tensors["wte"] = tensors["wte"][: config.vocab_size]
    header = CheckpointHeader(config, FP32_UNPADDED)
    path.write_bytes(packed(header) + b"".join(each.tobytes() for each in tensors.values()))
    return path


def written(path: Path, config: ModelConfig, dtype: str) -> Path:
    if dtype == "version 1":
        return unpadded(path, config)
    write_checkpoint(path, config, engine.some_tensors(config).items(), dtype=dtype, step=3)
    return path


@pytest.mark.parametrize("config", [FULL, PADDED])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "version 1"])
def test_new_rows_are_the_mean_and_all_else_is_kept(
    config: ModelConfig, dtype: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "model.bin", config, dtype)
    V, C, size = config.vocab_size, config.channels, config.vocab_size + 2
    grown = GrownWeights(CheckpointModel(path), V, size)
    kept = "bf16" if dtype == "bf16" else "fp32"
    made = tmp_path / "grown.bin"
    header = write_checkpoint(made, grown.config, grown.slices(), dtype=kept, **vars(grown.origin))
    assert header.config == replace(config, vocab_size=size)
    assert header.step == (0 if dtype == "version 1" else 3)
    of_model = CheckpointModel(path).header
    width = 2 if kept == "bf16" else 4
    before, after = path.read_bytes(), made.read_bytes()
    rows = of_model.shapes["wte"][0]
    assert after[HEADER_BYTES:][: V * C * width] == before[HEADER_BYTES:][: V * C * width]
    new_rows = header.config.padded_vocab_size
    assert after[HEADER_BYTES + new_rows * C * width :] == before[HEADER_BYTES + rows * C * width :]
    grows = config.padded_vocab_size < size
    assert (len(after) > len(before)) == (grows or dtype == "version 1")
    _, ours = read_checkpoint(path)
    _, theirs = read_checkpoint(made)
    mean = ours["wte"][:V].astype(np.float64).mean(axis=0).astype(np.float32)
    wanted = from_bf16(to_bf16(mean)) if kept == "bf16" else mean
    for token in range(V, size):
        np.testing.assert_allclose(theirs["wte"][token], wanted, rtol=1e-6, atol=1e-9)
    assert not theirs["wte"][size:].any()


@pytest.mark.parametrize("config", [FULL, PADDED])
def test_the_logits_of_the_tokens_that_it_knew_are_the_same(
    config: ModelConfig, tmp_path: Path, cache: Path
) -> None:
    V = config.vocab_size
    path = engine.save_model(tmp_path / "model.bin", config)
    grown = GrownWeights(CheckpointModel(path), V, V + 2)
    write_checkpoint(tmp_path / "grown.bin", grown.config, grown.slices())
    data = engine.save_tokens(tmp_path / "tokens.bin", engine.random_tokens(200, V), V)
    logits = []
    for name, shape in (("model", config), ("grown", grown.config)):
        state = tmp_path / f"{name}.state"
        files: engine.Flags = {"model": tmp_path / f"{name}.bin", "data": data, "out": state}
        engine.succeeded(engine.build(cache)("debug-state", batch_size=2, seq_len=37, **files))
        logits.append(read_debug_state(state, shape).logits)
    before, after = logits
    np.testing.assert_allclose(after[..., :V], before, rtol=0, atol=1e-5)
    # A product with the mean of all rows is the mean of all products.
    for token in (V, V + 1):
        np.testing.assert_allclose(after[..., token], before.mean(axis=-1), rtol=0, atol=1e-5)


def test_rows_without_a_token_are_used_before_new_ones(tmp_path: Path) -> None:
    """A model may have more rows than its tokenizer has tokens."""
    path = engine.save_model(tmp_path / "model.bin", PADDED)
    _, ours = read_checkpoint(path)
    grown = GrownWeights(CheckpointModel(path), 290, 292)
    assert grown.config == PADDED
    wte = grown.read("wte")
    np.testing.assert_array_equal(wte[:290], ours["wte"][:290])
    np.testing.assert_allclose(wte[290], ours["wte"][:290].mean(axis=0), rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(wte[290], wte[291])
    np.testing.assert_array_equal(wte[292:], ours["wte"][292 : PADDED.vocab_size])


@pytest.mark.parametrize(("to", "dtype"), [("hf", "f16"), ("gguf", "q8_0"), ("gguf", "bf16")])
def test_weights_of_other_formats_grow_too(to: str, dtype: str, here: Context) -> None:
    model = engine.save_model(here.workspace.root / "model.bin", FULL)
    weights = open_weights(export(here, str(model), to=to, dtype=dtype, tokenizer="byte"))
    V = FULL.vocab_size
    grown = GrownWeights(weights, V, V + 3)
    found = dict(grown.tensors())
    for name, values in weights.tensors():
        np.testing.assert_array_equal(found[name][: len(values)], values)
    mean = weights.read("wte").mean(axis=0)
    np.testing.assert_allclose(found["wte"][V:], np.tile(mean, (3, 1)), rtol=1e-4, atol=1e-8)
