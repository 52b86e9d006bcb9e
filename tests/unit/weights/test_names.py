"""Tensors under the names and wrappers that programs give them are one model."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmc.errors import BadData, MissingOutput, Usage
from llmc.model import ModelConfig
from llmc.weights.base import Weights
from llmc.weights.sources import open_weights
from tests.helpers.foreign_files import (
    huggingface_tensors,
    write_huggingface,
    write_huggingface_config,
)
from tests.helpers.models import some_tensors

torch = pytest.importorskip("torch")
CONFIG = ModelConfig(2, 4, 64, 8, 20)
Tensors = dict[str, Any]


def conv1d() -> Tensors:
    return {name.removeprefix("transformer."): v for name, v in huggingface_tensors(CONFIG).items()}


def linear(before: str = "transformer.") -> Tensors:
    """Return the tensors as nanoGPT has them: matrices are (out, in)."""
    turned = {
        name: np.ascontiguousarray(v.T) if v.ndim == 2 and name.startswith("h.") else v
        for name, v in conv1d().items()
    }
    return {before + name: torch.from_numpy(np.array(v)) for name, v in turned.items()}


def agrees(weights: Weights, config: ModelConfig = CONFIG) -> None:
    assert weights.config == config
    wanted = some_tensors(CONFIG)
    for name, values in weights.tensors():
        rows = wanted[name][: CONFIG.vocab_size] if name == "wte" else wanted[name]
        np.testing.assert_array_equal(values, rows, err_msg=name)


PLACES: dict[str, Callable[[str], str]] = {
    "distributed and compiled": lambda name: f"module._orig_mod.transformer.{name}",
    "compiled and distributed": lambda name: f"_orig_mod.module.transformer.{name}",
    "lightning": lambda name: f"model.transformer.{name}",
    "own module": lambda name: f"net.gpt.backbone.{name}",
    "fully sharded": lambda name: f"_fsdp_wrapped_module.transformer.{name}",
    "compiled blocks": lambda name: "transformer." + name.replace("h.1.", "h.1._orig_mod."),
    "checkpointed blocks": lambda name: name.replace("h.0.", "h.0._checkpoint_wrapped_module."),
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_names_under_any_prefix(tmp_path: Path, kind: str, suffix: str) -> None:
    tensors = {PLACES[kind](name): values for name, values in conv1d().items()}
    path = tmp_path / f"model.{suffix}"
    write_huggingface_config(tmp_path, CONFIG)
    if suffix == "pt":
        torch.save({name: torch.from_numpy(np.array(v)) for name, v in tensors.items()}, path)
    else:
        save_file(tensors, path)
    agrees(open_weights(path))


def test_a_head_alone_is_the_embedding(tmp_path: Path) -> None:
    """safetensors.torch.save_model keeps one name of tied tensors, the first by the alphabet."""
    tensors = conv1d()
    tensors["lm_head.weight"] = tensors.pop("wte.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    write_huggingface_config(tmp_path, CONFIG)
    agrees(open_weights(tmp_path))


def test_a_head_beside_the_rest_is_compared_with_the_embedding(tmp_path: Path) -> None:
    tensors = {f"net.gpt.{name}": values for name, values in conv1d().items()}
    write_huggingface_config(tmp_path, CONFIG)
    for head in (conv1d()["wte.weight"], np.ones((20, 64), np.float32)):
        save_file(tensors | {"net.lm_head.weight": head}, tmp_path / "model.safetensors")
        found = open_weights(tmp_path)
        if head[0, 0] != 1:
            agrees(found)
        else:
            with pytest.raises(BadData, match="another model"):
                found.verify()


def test_two_models_in_a_file_are_refused(tmp_path: Path) -> None:
    both = conv1d() | {f"transformer.{name}": values for name, values in conv1d().items()}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(BadData, match="more than one model"):
        open_weights(tmp_path / "model.safetensors")


@dataclasses.dataclass
class GPTConfig:
    block_size: int = 8
    vocab_size: int = 20
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 64


class Point(NamedTuple):
    x: int


TRAINERS: dict[str, Callable[[], Any]] = {
    "a dataclass": lambda: {"model": linear(), "config": GPTConfig(), "step": 7, "val_loss": 3.5},
    "a namespace": lambda: {
        "state_dict": linear("module.transformer."),
        "args": argparse.Namespace(heads=4, out=Path("runs/a"), at=Point(1)),
        "global_step": 7,
        "best_val_loss": torch.tensor(3.5),
    },
    "a table in a table": lambda: {
        "model_state_dict": linear(""),
        "hyper_parameters": {"config": {"num_heads": 4}},
        "iter_num": 7,
        "val_loss": 3.5,
    },
}


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_trainer_s_configuration_tells_the_heads(tmp_path: Path, kind: str) -> None:
    torch.save(TRAINERS[kind](), tmp_path / "ckpt.pt")
    weights = open_weights(tmp_path / "ckpt.pt")
    agrees(weights)
    assert (weights.origin.step, weights.origin.val_loss) == (7, 3.5)
    with pytest.raises(Usage, match="--heads"):
        open_weights(tmp_path / "ckpt.pt", heads=2)


def test_a_bare_state_of_linear_matrices_asks_for_its_heads(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save(linear(), path)
    with pytest.raises(
        BadData, match=r"heads.*2 layers, 64 channels, context 8, vocabulary 20.*--heads"
    ):
        open_weights(path)
    agrees(open_weights(path, heads=4))
    with pytest.raises(BadData, match="7 heads do not divide"):
        open_weights(path, heads=7)
    write_huggingface_config(tmp_path, CONFIG)
    agrees(open_weights(path))


def test_assumed_heads_are_said_and_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(conv1d(), path)
    found = open_weights(path)
    assert found.config.heads == 1
    assert any("--heads" in note for note in found.notes)
    named = open_weights(path, heads=4)
    agrees(named)
    assert not named.notes


def test_a_pickle_of_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(BadData, match=r"state_dict\(\)"):
        open_weights(tmp_path / "model.pt")


TF = "TensorFlow"
FOREIGN = [
    ("model.ckpt.index", b"\0\0\0\x01\x01\0", TF),
    ("model.ckpt.data-00000-of-00001", b"\x12\x34", TF),
    ("model.ckpt.meta", b"\n\x80", TF),
    ("checkpoint", b'model_checkpoint_path: "model.ckpt"\n', TF),
    ("tf_model.h5", b"\x89HDF\r\n\x1a\n", "from_tf=True"),
    ("weights.h5", b"\x89HDF\r\n\x1a\n", "from_tf=True"),
    ("flax_model.msgpack", b"\x81", "from_flax=True"),
    ("model.onnx", b"\x08\x07", "another runtime"),
    ("adapter_model.bin", b"PK\3\4", "merge_and_unload"),
]


@pytest.mark.parametrize(("name", "data", "said"), FOREIGN)
def test_weights_of_other_programs_are_named(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadData, match=said) as alone:
        open_weights(tmp_path / name)
    assert str(tmp_path / name) in str(alone.value)


FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "openai": (("checkpoint", "hparams.json", "model.ckpt.index", "model.ckpt.meta"), TF),
    "tf": (("config.json", "tf_model.h5"), TF),
    "flax": (("config.json", "flax_model.msgpack"), "Flax"),
    "peft": (("adapter_config.json", "adapter_model.safetensors"), "merge_and_unload"),
    "pieces": ((".metadata", "__0_0.distcp", "__1_0.distcp"), "dcp_to_torch"),
    "deepspeed": (("latest", "zero_to_fp32.py"), "zero_to_fp32.py"),
    "nanogpt": (("ckpt.pt",), "ckpt.pt"),
    "trainer": (("checkpoint-9/config.json", "checkpoint-20/config.json"), "checkpoint-"),
    "empty model": (("config.json", "README.md"), "llmc fetch gpt2"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_of_other_programs_are_named(tmp_path: Path, kind: str) -> None:
    files, said = FOLDERS[kind]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MissingOutput, match=said):
        open_weights(tmp_path)


def test_an_adapter_s_tensors_are_named(tmp_path: Path) -> None:
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
    save_file({name: np.zeros((4, 64), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(BadData, match="adapter of peft"):
        open_weights(tmp_path / "a.safetensors")


def test_one_of_several_files_leads_to_all(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "m", CONFIG, shards=2)
    agrees(open_weights(folder))
    first = folder / "model-00001-of-00002.safetensors"
    with pytest.raises(BadData, match=r"one of 2 files .*model\.safetensors\.index\.json"):
        open_weights(first)
    index = folder / "model.safetensors.index.json"
    agrees(open_weights(index))
    gone = folder / "model-00002-of-00002.safetensors"
    gone.rename(tmp_path / "elsewhere")
    with pytest.raises(MissingOutput, match="model-00002-of-00002"):
        open_weights(folder)
    index.unlink()
    for place in (first, folder):
        with pytest.raises((BadData, MissingOutput), match="is not there: get it too"):
            open_weights(place)
