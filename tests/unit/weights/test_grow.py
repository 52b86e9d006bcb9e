"""Growing a model: rows for more tokens, and not another byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmc.check.debug_state import read_debug_state
from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.errors import BadData, Usage
from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.tokens.bpe import train_bpe
from llmc.tokens.held import character_tokenizer
from llmc.tokens.recorded import record_tokenizer
from llmc.tokens.template import CHATML, IM_END, IM_START, PLAIN, Template
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_bin import read_tokenizer_bin
from llmc.tokens.tokenizer_json import read_folder
from llmc.weights.checkpoint import (
    FP32_UNPADDED,
    HEADER_BYTES,
    CheckpointHeader,
    CheckpointModel,
    read_checkpoint,
    read_header,
    write_checkpoint,
)
from llmc.weights.checkpoint import _packed as packed
from llmc.weights.grow import GrownWeights
from llmc.weights.number_types import from_bf16, to_bf16
from llmc.weights.sources import find_weights, open_weights
from llmc.weights.tokenizer import find_tokenizer, tokenizer_of
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers import engine, models
from tests.helpers.export import export

FULL = models.SMALL  # its rows are a multiple of 128: new ones make the file grow
PADDED = models.RAGGED  # its padding rows are enough


def unpadded(path: Path, config: ModelConfig) -> Path:
    """Write llm.c's first version, which does not pad the vocabulary."""
    tensors = models.some_tensors(config)
    tensors["wte"] = tensors["wte"][: config.vocab_size]
    header = CheckpointHeader(config, FP32_UNPADDED)
    path.write_bytes(packed(header) + b"".join(each.tobytes() for each in tensors.values()))
    return path


def written(path: Path, config: ModelConfig, dtype: str) -> Path:
    if dtype == "version 1":
        return unpadded(path, config)
    write_checkpoint(path, config, models.some_tensors(config).items(), dtype=dtype, step=3)
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
    path = models.save_model(tmp_path / "model.bin", config)
    grown = GrownWeights(CheckpointModel(path), V, V + 2)
    write_checkpoint(tmp_path / "grown.bin", grown.config, grown.slices())
    data = models.save_tokens(tmp_path / "tokens.bin", models.random_tokens(200, V), V)
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
    path = models.save_model(tmp_path / "model.bin", PADDED)
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
    model = models.save_model(here.workspace.root / "model.bin", FULL)
    weights = open_weights(export(here, str(model), to=to, dtype=dtype, tokenizer="byte"))
    V = FULL.vocab_size
    grown = GrownWeights(weights, V, V + 3)
    found = dict(grown.tensors())
    for name, values in weights.tensors():
        np.testing.assert_array_equal(found[name][: len(values)], values)
    mean = weights.read("wte").mean(axis=0)
    np.testing.assert_allclose(found["wte"][V:], np.tile(mean, (3, 1)), rtol=1e-4, atol=1e-8)


BOTH = (IM_START, IM_END)
TEXT = "she sells sea shells by the sea shore; größer, naïve, 日本 🙂 \n\n" * 40


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe([TEXT], 290)


def a_run(
    here: Context, tokenizer: Tokenizer, config: ModelConfig = PADDED, dtype: str = "fp32"
) -> Path:
    """Write a run's folder, as training leaves it."""
    folder = here.workspace.runs / "poet"
    folder.mkdir(parents=True)
    tensors = models.some_tensors(config).items()
    fingerprint = bytes.fromhex(tokenizer.fingerprint)
    path = folder / "model.bin"
    write_checkpoint(path, config, tensors, dtype=dtype, step=12, tokenizer=fingerprint)
    record_tokenizer(tokenizer, folder)
    return path


def held(folder: Path) -> Tokenizer:
    """Return a tokenizer that is held as a document: one whose first token is a special one."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([TEXT], 280, special_tokens=["<|endoftext|>"])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    found = read_folder(folder)
    assert isinstance(found, Tokenizer) and found.document is not None
    return found


@pytest.mark.parametrize("kind", ["bpe", "byte", "held"])
@pytest.mark.parametrize("to", ["llmc", "hf", "gguf"])
def test_added_tokens_go_with_the_model_into_any_format(
    kind: str, to: str, here: Context, bpe: Tokenizer, tmp_path: Path
) -> None:
    given = {"bpe": bpe, "byte": load_tokenizer("byte")}
    ours = given[kind] if kind in given else held(tmp_path / "held")
    a_run(here, ours)
    path = export(here, "poet", to=to, add_tokens=BOTH)
    ending = {"llmc": ".bin", "hf": "-hf", "gguf": ".gguf"}[to]
    assert path == here.workspace.models / f"poet-chatml{ending}"
    found = find_weights(here.workspace, str(path))
    tokenizer = find_tokenizer(here.workspace, found)
    assert tokenizer is not None
    assert found.weights.origin.tokenizer == bytes.fromhex(tokenizer.fingerprint)
    V = ours.vocab_size
    assert [tokenizer.special_tokens[name] for name in BOTH] == [V, V + 1]
    assert tokenizer.template == CHATML
    assert tokenizer.eot == ours.eot
    assert tokenizer.encode("sea <|im_end|>") == ours.encode("sea <|im_end|>")
    assert tokenizer.encode("sea <|im_end|>", special=True)[-1] == V + 1
    rows = found.weights.read("wte")
    np.testing.assert_allclose(rows[V], rows[:V].mean(axis=0), rtol=1e-4, atol=1e-8)


def test_a_grown_model_goes_round_all_formats(here: Context, bpe: Tokenizer) -> None:
    a_run(here, bpe)
    first = export(here, "poet", add_tokens=BOTH)
    assert find_tokenizer(here.workspace, find_weights(here.workspace, str(first)))
    source = str(first)
    for to in ("hf", "gguf"):
        source = str(export(here, source, to=to, out=here.workspace.root / f"out-{to}"))
    back = export(here, source, out=here.workspace.root / "back.bin")
    assert back.read_bytes() == first.read_bytes()
    found = tokenizer_of(here.workspace, back)
    assert found is not None and found.template == CHATML


def test_a_published_model_grows(here: Context, gpt2: Tokenizer) -> None:
    config = ModelConfig(1, 1, 32, 8, 50257)
    path = models.save_model(here.workspace.root / "gpt2.bin", config)
    made = export(here, str(path), add_tokens=BOTH)
    header = read_header(made)
    assert header.config.vocab_size == 50259
    assert made.stat().st_size == path.stat().st_size  # its padding rows are enough
    tokenizer = tokenizer_of(here.workspace, made)
    assert tokenizer is not None
    assert tokenizer.special_tokens == {"<|endoftext|>": 50256, IM_START: 50257, IM_END: 50258}


def test_other_tokens_are_added_to_one_with_a_template(here: Context, bpe: Tokenizer) -> None:
    a_run(here, replace(bpe, template=PLAIN))
    made = export(here, "poet", add_tokens=["<|tool|>"])
    assert made.name == "poet-grown.bin"
    tokenizer = tokenizer_of(here.workspace, made)
    assert tokenizer is not None
    assert tokenizer.template == PLAIN
    assert tokenizer.special_tokens["<|tool|>"] == bpe.vocab_size


@pytest.mark.parametrize("template", [None, PLAIN])
def test_a_plain_template_goes_with_a_checkpoint(
    template: Template | None, here: Context, bpe: Tokenizer
) -> None:
    """It is not a part of the fingerprint, so that a record beside the checkpoint holds it."""
    path = a_run(here, replace(bpe, template=template))
    out = export(here, "poet", out=here.workspace.models / "poet.bin")
    record_tokenizer(bpe, path.parent)  # forget it there
    found = tokenizer_of(here.workspace, out)
    assert found is not None and found.template == template
    if template is not None:  # what is written again without one has none
        export(here, "poet", out=out)
        found = tokenizer_of(here.workspace, out)
        assert found is not None and found.template is None


@pytest.mark.parametrize(
    ("names", "reason"),
    [(["<|endoftext|>"], "already"), (["sea", "sea"], "twice"), ([""], "cannot be a token")],
)
def test_what_is_no_new_token_is_refused(
    names: list[str], reason: str, here: Context, bpe: Tokenizer
) -> None:
    a_run(here, bpe)
    with pytest.raises(Usage, match=reason):
        export(here, "poet", add_tokens=names)
    assert not here.workspace.models.exists()


def test_a_model_without_a_known_tokenizer_is_refused(here: Context, tmp_path: Path) -> None:
    path = models.save_model(tmp_path / "model.bin", PADDED)
    with pytest.raises(BadData, match="is not known"):
        export(here, str(path), add_tokens=BOTH)
    letters = character_tokenizer({"a": 0, "b": 1, "\n": 2})
    a_run(here, letters)
    with pytest.raises(BadData, match="characters"):
        export(here, "poet", add_tokens=BOTH)


def test_the_command_adds_tokens(llmc: Llmc, bpe: Tokenizer) -> None:
    here = Context(Workspace(llmc.workspace), Ui(quiet=True))
    a_run(here, bpe)
    done = llmc("export-weights", "poet", "--add-tokens", IM_START, "--add-tokens", IM_END)
    assert done.returncode == 0, done.stderr
    assert "models/poet-chatml.bin" in done.stderr
    assert read_header(llmc.workspace / "models/poet-chatml.bin").config.vocab_size == 301
    source = "models/poet-chatml.bin"
    assert_one_sentence(llmc("export-weights", source, "--add-tokens", IM_END), 2)


def test_a_published_models_folder_grows_by_its_name(here: Context, gpt2: Tokenizer) -> None:
    config = ModelConfig(1, 1, 64, 8, 50257)
    model = models.save_model(here.workspace.root / "model.bin", config)
    export(here, str(model), to="hf", out=here.workspace.models / "gpt2", tokenizer=gpt2)
    made = export(here, "gpt2", add_tokens=BOTH)
    assert made == here.workspace.models / "gpt2-chatml.bin"
    assert read_header(made).config.vocab_size == 50259


def test_llm_cs_files_have_the_tokens(here: Context, bpe: Tokenizer) -> None:
    a_run(here, bpe)
    folder = export(here, "poet", to="llm.c", add_tokens=BOTH)
    tokens = read_tokenizer_bin(folder / "gpt2_tokenizer.bin").tokens
    assert tokens[-3:] == (b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>")
    assert read_header(folder / "gpt2_124M.bin").config.vocab_size == PADDED.vocab_size
