"""``llmc export-weights``: random weights as GPT-2 had them, and weights from elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmc.cli.context import Context
from llmc.errors import BadData, LlmcError, MissingOutput, Usage
from llmc.model import ModelConfig
from llmc.weights.checkpoint import read_checkpoint, read_header
from llmc.weights.huggingface import CONV1D, NAMES
from llmc.weights.random import random_tensors
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.export import export
from tests.helpers.foreign_files import write_huggingface_config

SMALL = {"layers": 2, "heads": 2, "channels": 64, "context": 32, "vocab_size": 300}


def hugging_face(folder: Path, config: ModelConfig) -> Path:
    """Write random weights as Hugging Face would."""
    arrays = {}
    for name, values in random_tensors(config, 5):
        theirs, conv1d = NAMES[name], name in CONV1D
        for layer in range(config.layers if "{}" in theirs else 1):
            one = values[layer] if "{}" in theirs else values
            arrays[theirs.format(layer)] = np.ascontiguousarray(one.T if conv1d else one)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / "model.safetensors")
    write_huggingface_config(folder, config)
    return folder


def test_random_weights_are_gpt2s_initialisation(here: Context) -> None:
    path = export(here, "random", shape=SMALL)
    header, tensors = read_checkpoint(path)
    assert header.config == ModelConfig(**SMALL)
    residual = 0.02 / math.sqrt(2 * 2)
    for name, values in tensors.items():
        if name.endswith("b"):
            assert not values.any(), name
        elif name.startswith("ln"):
            assert (values == 1).all(), name
        else:
            real = values[:300] if name == "wte" else values
            std = residual if name in ("attprojw", "fcprojw") else 0.02
            assert real.std() == pytest.approx(std, rel=0.05), name
            assert abs(real.mean()) < 5 * std / math.sqrt(real.size), name
    assert not tensors["wte"][300:].any()
    assert (header.step, header.val_loss, header.tokenizer) == (0, None, None)


def test_a_seed_decides_every_byte(here: Context, tmp_path: Path) -> None:
    def made(seed: int) -> bytes:
        out = tmp_path / "model.bin"
        export(here, "random", out=out, shape=SMALL, seed=seed)
        return out.read_bytes()

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_bf16_is_the_same_model_rounded(here: Context, tmp_path: Path) -> None:
    _, full = read_checkpoint(export(here, "random", out=tmp_path / "a.bin", shape=SMALL))
    header, half = read_checkpoint(
        export(here, "random", out=tmp_path / "b.bin", shape=SMALL, dtype="bf16")
    )
    assert header.version == 5
    for name, values in full.items():
        np.testing.assert_allclose(half[name], values, rtol=2**-8)


def test_a_random_model_is_named_after_its_preset(here: Context, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        "[model]\nlayers = 1\nheads = 1\nchannels = 8\ncontext = 4\nvocab_size = 10\n"
    )
    path = export(here, f"random:{recipe}", shape={"layers": 3, "heads": None})
    assert path == here.workspace.models / "tiny-random.bin"
    assert read_header(path).config == ModelConfig(3, 1, 8, 4, 10)
    default = export(here, "random", shape=SMALL)
    assert default == here.workspace.models / "gpt2-124m-random.bin"


def test_a_random_model_carries_the_fingerprint_it_is_given(here: Context) -> None:
    path = export(here, "random", shape=SMALL, fingerprint=bytes(range(32)))
    assert read_header(path).tokenizer == bytes(range(32))


def test_fetched_weights_are_found_by_name(here: Context) -> None:
    config = ModelConfig(1, 1, 64, 8, 50257)
    hugging_face(here.workspace.models / "gpt2", config)
    path = export(here, "gpt2")
    assert path == here.workspace.models / "gpt2.bin"
    header, tensors = read_checkpoint(path)
    assert header.config == config
    for name, values in random_tensors(config, 5):
        np.testing.assert_array_equal(tensors[name][: len(values)], values)


def test_gpt2s_vocabulary_means_gpt2s_tokenizer(
    here: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        fingerprint = "ab" * 32

    def known(name: str) -> Known:
        assert name == "gpt2"
        return Known()

    def unknown(name: str) -> Known:
        raise BadData("no network")

    folder = hugging_face(tmp_path / "own", ModelConfig(1, 1, 64, 8, 50257))
    for load, fingerprint in ((known, bytes.fromhex("ab" * 32)), (unknown, None)):
        monkeypatch.setattr("llmc.weights.tokenizer.load_tokenizer", load)
        assert read_header(export(here, str(folder))).tokenizer == fingerprint
    other = hugging_face(tmp_path / "other", ModelConfig(1, 1, 64, 8, 300))
    monkeypatch.setattr("llmc.weights.tokenizer.load_tokenizer", known)
    assert read_header(export(here, str(other))).tokenizer is None


def test_weights_of_ones_own_keep_their_name(here: Context, tmp_path: Path) -> None:
    config = ModelConfig(1, 1, 64, 8, 300)
    folder = hugging_face(tmp_path / "shakespeare", config)
    assert export(here, str(folder)) == here.workspace.models / "shakespeare.bin"
    lone = (folder / "model.safetensors").rename(tmp_path / "poet.safetensors")
    path = export(here, str(lone))
    assert path == here.workspace.models / "poet.bin"
    assert read_header(path).config == config


@pytest.mark.parametrize(
    ("source", "overrides", "kind", "reason"),
    [
        ("gpt2", {}, MissingOutput, "run 'llmc fetch gpt2' first"),
        ("gpt2-xl", {}, MissingOutput, "run 'llmc fetch gpt2-xl' first"),
        ("gpt2-largo", {}, Usage, "did you mean 'gpt2-large'"),
        ("random:gpt2-123m", {}, Usage, "did you mean 'gpt2-124m'"),
        ("gpt2", {"layers": 2}, Usage, "--layers shapes a random model"),
        ("gpt2", {"vocab_size": 2}, Usage, "--vocab-size shapes"),
        ("random", {"heads": 5}, Usage, "5 heads do not divide 768"),
        ("random", {"layers": 0}, Usage, "layers must be at least 1"),
        ("random", {"vocab_size": 2**31}, Usage, "vocab_size must be at most"),
        ("random", {"layers": 10**8}, Usage, "layers must be at most"),
        ("random", {"layers": 4096, "channels": 12288}, BadData, "GB left: free some space"),
        (__file__, {}, Usage, "is not weights that llmc knows"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    here: Context,
    source: str,
    overrides: dict[str, int | None],
    kind: type[LlmcError],
    reason: str,
) -> None:
    with pytest.raises(kind, match=reason) as caught:
        export(here, source, shape=overrides)
    assert "\n" not in str(caught.value)
    assert list(here.workspace.root.rglob("*")) == []


def test_damaged_weights_leave_no_checkpoint(here: Context) -> None:
    folder = hugging_face(here.workspace.models / "gpt2", ModelConfig(1, 1, 64, 8, 300))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadData, match="damaged"):
        export(here, "gpt2")
    assert [path.name for path in here.workspace.models.iterdir()] == ["gpt2"]


FLAGS = [
    "--layers",
    "1",
    "--heads",
    "2",
    "--channels",
    "16",
    "--context",
    "8",
    "--vocab-size",
    "20",
]


def test_the_command_takes_every_flag(llmc: Llmc) -> None:
    done = llmc(
        "export-weights", "random:gpt2-124m", *FLAGS, "--seed", "3", "--dtype", "bf16",
        "--out", "tiny.bin", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = llmc.workspace / "tiny.bin"
    assert read_header(path).config == ModelConfig(1, 2, 16, 8, 20)
    result = json.loads(done.stdout)
    assert (result["model"], result["bytes"]) == ("tiny.bin", path.stat().st_size)
    assert result["parameters"] == 20 * 16 + 8 * 16 + 12 * 16**2 + 13 * 16 + 2 * 16
    assert "1 layers, 2 heads, 16 channels, context 8, vocabulary 20" in done.stderr
    assert "next: llmc sample --model tiny.bin\n" in done.stderr  # there is no dataset


def test_the_command_fails_with_the_right_exit_code(llmc: Llmc) -> None:
    (llmc.workspace / "bad.safetensors").write_bytes(b"not tensors at all")
    for words, code in (
        (["bad.safetensors"], 1),
        (["gpt3"], 2),
        (["random", "--heads", "7"], 2),
        (["gpt2"], 3),
    ):
        assert_one_sentence(llmc("export-weights", *words), code)
    for words in (
        ["random", "--dtype", "fp64"],
        ["random", "--seed", "-1"],
        ["random", "--layers", "x"],
    ):
        done = llmc("export-weights", *words)
        assert done.returncode == 2
        assert words[1] in done.stderr
    assert not (llmc.workspace / "models").exists()
