"""PyTorch's files: state dicts of Hugging Face's, nanoGPT's checkpoints, and what is neither."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.errors import BadData, LlmcError, Usage
from llmc.model import ModelConfig
from llmc.weights.huggingface import CONV1D, NAMES
from llmc.weights.sources import open_weights
from tests.helpers.models import SMALL, some_tensors

torch = pytest.importorskip("torch")

ARGS: dict[str, Any] = {
    "n_layer": SMALL.layers,
    "n_head": SMALL.heads,
    "n_embd": SMALL.channels,
    "block_size": SMALL.context,
    "vocab_size": SMALL.vocab_size,
    "bias": True,
    "dropout": 0.0,
}


def linear(prefix: str = "transformer.", *, bias: bool = True) -> dict[str, Any]:
    """Return the test model's tensors as nanoGPT names them: Linear, (out, in)."""
    ours = some_tensors(SMALL)
    state = {
        prefix + theirs.format(layer): torch.from_numpy(ours[name][layer].copy())
        if "{}" in theirs
        else torch.from_numpy(ours[name].copy())
        for name, theirs in NAMES.items()
        for layer in range(SMALL.layers if "{}" in theirs else 1)
    }
    state[prefix.removesuffix("transformer.") + "lm_head.weight"] = state[f"{prefix}wte.weight"]
    return {name: value for name, value in state.items() if bias or not name.endswith(".bias")}


def conv1d() -> dict[str, Any]:
    """Return them as Hugging Face does: Conv1D, (in, out)."""
    wanted = {NAMES[name].split("{}")[-1] for name in CONV1D}
    return {
        name: value.T.contiguous() if any(name.endswith(end) for end in wanted) else value
        for name, value in linear().items()
    }


def nanogpt(path: Path, state: dict[str, Any], **changes: object) -> Path:
    saved = {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": ARGS | changes,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "compile": True},
    }
    torch.save(saved, path)
    return path


def agrees(path: Path) -> None:
    ours = some_tensors(SMALL)
    found = dict(open_weights(path).tensors())
    for name, values in ours.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("prefix", ["transformer.", "_orig_mod.transformer."])
def test_nanogpts_checkpoint_is_read(prefix: str, tmp_path: Path) -> None:
    path = nanogpt(tmp_path / "ckpt.pt", linear(prefix))
    agrees(path)
    origin = open_weights(path).origin
    assert (origin.step, origin.val_loss) == (250, 1.5)


def test_its_masks_are_dropped_and_its_missing_biases_are_zero(tmp_path: Path) -> None:
    state = linear(bias=False)
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    weights = open_weights(nanogpt(tmp_path / "ckpt.pt", state, bias=False))
    ours = some_tensors(SMALL)
    for name, values in weights.tensors():
        wanted = np.zeros_like(ours[name]) if name.endswith("b") else ours[name]
        np.testing.assert_array_equal(values, wanted, err_msg=name)
    assert any("no biases" in note for note in weights.notes)


def test_its_padded_vocabulary_is_cut_to_gpt2s(tmp_path: Path) -> None:
    wte = torch.arange(50304 * 8, dtype=torch.float32).view(50304, 8)
    config = {"n_embd": 8, "n_head": 2, "vocab_size": 50304, "n_layer": 1, "block_size": 4}
    shapes = {
        "attn.c_attn.weight": (24, 8), "attn.c_proj.weight": (8, 8), "mlp.c_fc.weight": (32, 8),
        "mlp.c_proj.weight": (8, 32), "attn.c_attn.bias": (24,), "attn.c_proj.bias": (8,),
        "mlp.c_fc.bias": (32,), "mlp.c_proj.bias": (8,), "ln_1.weight": (8,), "ln_1.bias": (8,),
        "ln_2.weight": (8,), "ln_2.bias": (8,),
    }  # fmt: skip
    state = {f"transformer.h.0.{name}": torch.ones(shape) for name, shape in shapes.items()}
    state |= {"transformer.wte.weight": wte, "lm_head.weight": wte}
    state |= {"transformer.wpe.weight": torch.ones(4, 8)}
    state |= {"transformer.ln_f.weight": torch.ones(8), "transformer.ln_f.bias": torch.ones(8)}
    weights = open_weights(nanogpt(tmp_path / "ckpt.pt", state, **config))
    assert weights.config == ModelConfig(1, 2, 8, 4, 50257)
    np.testing.assert_array_equal(weights.read("wte"), wte.numpy()[:50257])
    assert any("47 padding rows" in note for note in weights.notes)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_state_dict_of_hugging_faces_is_read(zipped: bool, dtype: str, tmp_path: Path) -> None:
    state = {name: value.to(getattr(torch, dtype)) for name, value in conv1d().items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    weights = open_weights(path)
    assert weights.config.heads == 1  # 64 channels, and no config.json
    for name, values in weights.tensors():
        wanted = torch.from_numpy(some_tensors(SMALL)[name]).to(getattr(torch, dtype))
        np.testing.assert_array_equal(values, wanted.float().numpy(), err_msg=name)


def test_shards_of_pickles_are_one_model(tmp_path: Path) -> None:
    state = conv1d()
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for index, part in enumerate((names[:9], names[9:])):
        file = f"pytorch_model-0000{index + 1}-of-00002.bin"
        torch.save({name: state[name] for name in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    index_file = tmp_path / "pytorch_model.bin.index.json"
    index_file.write_text(json.dumps({"weight_map": weight_map}))
    agrees(tmp_path)
    agrees(index_file)
    weight_map["lm_head.weight"] = "../elsewhere.bin"
    index_file.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadData, match="should name a file beside it"):
        open_weights(tmp_path)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "evil.pt", tmp_path / "victim"
    torch.save({"transformer.wte.weight": Bomb(victim)}, path)
    plain = tmp_path / "plain.bin"
    plain.write_bytes(pickle.dumps({"a": Bomb(victim)}, protocol=2))
    pickle.loads(plain.read_bytes())["a"].close()
    assert victim.exists(), "the bomb works"
    victim.unlink()
    for file in (path, plain):
        with pytest.raises(BadData, match="cannot be read as tensors and plain values alone") as e:
            open_weights(file)
        assert "\n" not in str(e.value)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds no named tensors"),
        ({}, "holds no named tensors"),
        ({"epoch": 3}, "is not a tensor"),
        ({"model": {}, "model_args": ARGS}, "holds no named tensors"),
        ({"model": {}, "model_args": {}}, "its model_args are not nanoGPT's"),
        ({"model": {}, "model_args": ARGS | {"n_head": 7}}, "its model_args are not nanoGPT's"),
        ({"fc.weight": torch.ones(2, 2)}, "it is not a GPT-2"),
    ],
)
def test_other_contents_are_refused(content: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(BadData, match=reason):
        open_weights(path)


def test_a_cut_file_and_another_format_are_refused(tmp_path: Path) -> None:
    path = nanogpt(tmp_path / "ckpt.pt", linear())
    whole = path.read_bytes()
    for keep in (1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(LlmcError):
            open_weights(path)
    path.write_bytes(b"hello")
    with pytest.raises(Usage, match="is not weights that llmc knows"):
        open_weights(path)


def test_without_torch_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nanogpt(tmp_path / "ckpt.pt", linear())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BadData, match=r"pip install .*\[torch\]"):
        open_weights(path)
