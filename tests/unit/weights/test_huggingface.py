"""GPT-2 as Hugging Face stores it, told apart from everything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from llmc.errors import BadData, MissingOutput
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from llmc.weights.huggingface import HuggingFaceModel

L, C, V, T = 2, 128, 130, 16
CONFIG = ModelConfig(layers=L, heads=2, channels=C, context=T, vocab_size=V)
SETTINGS = {
    "model_type": "gpt2",
    "n_layer": L,
    "n_head": 2,
    "n_embd": C,
    "n_positions": T,
    "n_ctx": T,
    "vocab_size": V,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
}
Arrays = dict[str, NDArray[np.floating]]


def weights() -> Arrays:
    """All weights of a small GPT-2 under Hugging Face's names, Conv1D as (in, out)."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    for i in range(L):
        for name, outputs, inputs in (
            ("attn.c_attn", 3 * C, C),
            ("attn.c_proj", C, C),
            ("mlp.c_fc", 4 * C, C),
            ("mlp.c_proj", C, 4 * C),
        ):
            shapes |= {f"h.{i}.{name}.weight": (inputs, outputs), f"h.{i}.{name}.bias": (outputs,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (C,), f"h.{i}.{norm}.bias": (C,)}
    shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    generator = np.random.default_rng(3)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def saved(
    folder: Path, arrays: Arrays | None = None, settings: dict[str, object] | None = None
) -> Path:
    """Write a model folder as Hugging Face would."""
    folder.mkdir(exist_ok=True)
    save_file(arrays or weights(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SETTINGS if settings is None else settings))
    return folder


def test_every_tensor_goes_to_its_place(tmp_path: Path) -> None:
    found = HuggingFaceModel(saved(tmp_path / "model"))
    assert found.config == CONFIG
    ours = dict(found.tensors())
    theirs = weights()
    assert list(ours) == list(tensor_shapes(CONFIG))
    for i in range(L):
        for name, source in {
            "qkvw": "attn.c_attn",
            "attprojw": "attn.c_proj",
            "fcw": "mlp.c_fc",
            "fcprojw": "mlp.c_proj",
        }.items():
            np.testing.assert_array_equal(ours[name][i], theirs[f"h.{i}.{source}.weight"].T)
            bias = name.removesuffix("w") + "b"
            np.testing.assert_array_equal(ours[bias][i], theirs[f"h.{i}.{source}.bias"])
        for norm in ("ln1", "ln2"):
            source = f"h.{i}.ln_{norm[-1]}"
            np.testing.assert_array_equal(ours[f"{norm}w"][i], theirs[f"{source}.weight"])
            np.testing.assert_array_equal(ours[f"{norm}b"][i], theirs[f"{source}.bias"])
    for name, source in {"wte": "wte.weight", "wpe": "wpe.weight", "lnfw": "ln_f.weight"}.items():
        np.testing.assert_array_equal(ours[name], theirs[source])
    np.testing.assert_array_equal(ours["lnfb"], theirs["ln_f.bias"])
    assert all(values.dtype == np.float32 for values in ours.values())


def test_a_checkpoint_of_it_can_be_read(tmp_path: Path) -> None:
    found = HuggingFaceModel(saved(tmp_path / "model"))
    write_checkpoint(tmp_path / "model.bin", found.config, found.tensors())
    header, tensors = read_checkpoint(tmp_path / "model.bin")
    assert header.config == CONFIG
    np.testing.assert_array_equal(tensors["wte"][:V], weights()["wte.weight"])
    assert not tensors["wte"][V:].any()


def test_prefix_masks_and_a_tied_head_change_nothing(tmp_path: Path) -> None:
    plain = dict(HuggingFaceModel(saved(tmp_path / "plain")).tensors())
    arrays: Arrays = {f"transformer.{name}": values for name, values in weights().items()}
    arrays["lm_head.weight"] = weights()["wte.weight"]
    for i in range(L):
        arrays[f"transformer.h.{i}.attn.bias"] = np.tril(np.ones((1, 1, T, T), np.float32))
        arrays[f"transformer.h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    dressed = dict(HuggingFaceModel(saved(tmp_path / "dressed", arrays)).tensors())
    assert list(plain) == list(dressed)
    for name, values in plain.items():
        np.testing.assert_array_equal(values, dressed[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_widened(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    arrays = {
        name: torch.from_numpy(values).to(getattr(torch, dtype))
        for name, values in weights().items()
    }
    save_torch(arrays, tmp_path / "model.safetensors")
    ours = dict(HuggingFaceModel(tmp_path / "model.safetensors").tensors())
    theirs = arrays["h.1.mlp.c_fc.weight"].float().numpy()
    np.testing.assert_array_equal(ours["fcw"][1], theirs.T)
    assert ours["fcw"].dtype == ours["wte"].dtype == np.float32


def test_a_file_alone_tells_its_shape_with_heads_of_64(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(weights(), path)
    assert HuggingFaceModel(path).config == CONFIG


def test_a_config_beside_the_file_is_believed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", settings=SETTINGS | {"n_head": 4})
    assert HuggingFaceModel(folder / "model.safetensors").config.heads == 4


def test_a_file_alone_with_other_channels_cannot_tell_its_heads(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    arrays: Arrays = {
        "wte.weight": np.zeros((V, 96), np.float32),
        "wpe.weight": np.zeros((T, 96), np.float32),
        "h.0.ln_1.weight": np.zeros(96, np.float32),
    }
    save_file(arrays, path)
    with pytest.raises(BadData, match=r"put the model's config\.json beside"):
        HuggingFaceModel(path)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("model_type is 'llama'", {"model_type": "llama"}),
        ("activation_function is 'relu'", {"activation_function": "relu"}),
        ("layer_norm_epsilon is 1e-06", {"layer_norm_epsilon": 1e-6}),
        ("n_inner is 100", {"n_inner": 100}),
        ("tie_word_embeddings is False", {"tie_word_embeddings": False}),
        ("scale_attn_by_inverse_layer_idx", {"scale_attn_by_inverse_layer_idx": True}),
        ("heads do not divide", {"n_head": 3}),
        ("not whole numbers", {"n_layer": "2"}),
        ("not whole numbers", {"n_positions": None}),
        ("no tensor h.2.ln_1.weight", {"n_layer": 3}),
        ("a tensor h.1.attn", {"n_layer": 1}),
        ("has the shape", {"vocab_size": 131}),
        ("has the shape", {"n_positions": 32}),
    ],
)
def test_a_config_of_another_model_is_refused(
    tmp_path: Path, reason: str, change: dict[str, object]
) -> None:
    with pytest.raises(BadData, match=reason) as caught:
        HuggingFaceModel(saved(tmp_path / "model", settings=SETTINGS | change))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "{}"])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = saved(tmp_path / "model")
    (folder / "config.json").write_text(text)
    with pytest.raises(BadData, match=r"config\.json"):
        HuggingFaceModel(folder)


def test_a_head_of_its_own_is_refused(tmp_path: Path) -> None:
    arrays = weights() | {"lm_head.weight": np.zeros((V, C), np.float32)}
    found = HuggingFaceModel(saved(tmp_path / "model", arrays))
    with pytest.raises(BadData, match=r"lm_head\.weight differs"):
        next(found.tensors())


def test_a_transposed_tensor_is_refused(tmp_path: Path) -> None:
    arrays = weights()
    arrays["h.1.mlp.c_fc.weight"] = np.ascontiguousarray(arrays["h.1.mlp.c_fc.weight"].T)
    with pytest.raises(BadData, match=r"h\.1\.mlp\.c_fc\.weight has the shape \(512, 128\)"):
        HuggingFaceModel(saved(tmp_path / "model", arrays))


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    arrays = weights() | {"ln_f.bias": np.zeros(C, np.int64)}
    with pytest.raises(BadData, match=r"ln_f\.bias is of type I64"):
        HuggingFaceModel(saved(tmp_path / "model", arrays))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"model.embed_tokens.weight": np.zeros((4, 4), np.float32)}, path)
    with pytest.raises(BadData, match="it is not a GPT-2"):
        HuggingFaceModel(path)


@pytest.mark.parametrize("cut", [4, 100, -3])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    folder = saved(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadData, match=r"damaged or not a safetensors file|cut short"):
        HuggingFaceModel(folder)


def test_an_empty_folder_is_missing_its_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingOutput, match="llmc fetch gpt2"):
        HuggingFaceModel(tmp_path)
