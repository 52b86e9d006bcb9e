"""State dicts as trainers wrap them, and nanoGPT's characters."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.errors import BadData
from llmc.model import ModelConfig
from llmc.tokens.tokenizer import load_tokenizer
from llmc.weights.sources import open_weights
from tests.helpers.foreign_files import huggingface_tensors, write_huggingface_config

torch = pytest.importorskip("torch")
CONFIG = ModelConfig(1, 2, 16, 8, 20)


def state(prefix: str = "") -> dict[str, Any]:
    return {
        prefix + name: torch.tensor(np.array(value))
        for name, value in huggingface_tensors(CONFIG).items()
    }


WRAPPED: dict[str, Callable[[], Any]] = {
    "distributed": lambda: state("module."),
    "compiled": lambda: state("_orig_mod."),
    "both": lambda: state("module._orig_mod."),
    "lightning": lambda: {"state_dict": state("model."), "epoch": 1},
    "trainer": lambda: {"model_state_dict": state(), "epoch": 1, "optimizer_state_dict": {"a": 1}},
    "fabric": lambda: {"model": state("_forward_module."), "step": 3},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_weights_are_the_bare_ones(kind: str, tmp_path: Path) -> None:
    write_huggingface_config(tmp_path, CONFIG)
    torch.save(state(), tmp_path / "bare.pt")
    torch.save(WRAPPED[kind](), tmp_path / "wrapped.pt")
    bare = dict(open_weights(tmp_path / "bare.pt").tensors())
    for name, values in open_weights(tmp_path / "wrapped.pt").tensors():
        np.testing.assert_array_equal(values, bare[name])


def test_what_holds_no_weights_says_what_was_seen(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1, "optimizer": {"a": 1}}, tmp_path / "a.pt")
    with pytest.raises(BadData, match="'epoch', 'lr', 'optimizer'"):
        open_weights(tmp_path / "a.pt")


def meta(path: Path, characters: str) -> None:
    ids = {character: index for index, character in enumerate(characters)}
    path.write_bytes(
        pickle.dumps({"vocab_size": len(ids), "stoi": ids, "itos": dict(enumerate(ids))})
    )


def test_nanogpts_characters_are_a_tokenizer(tmp_path: Path) -> None:
    meta(tmp_path / "meta.pkl", "\n abcé")
    found = load_tokenizer(str(tmp_path / "meta.pkl"))
    assert (found.name, found.vocab_size, found.eot, found.end) == ("characters", 6, 0, None)
    assert found.encode("cé a\n") == [4, 5, 1, 2, 0]
    assert found.detokenize([4, 5, 1]) == "cé ".encode()
    with pytest.raises(BadData, match="'z'"):
        found.encode("az")


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_meta_pkl_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": _Evil(tmp_path / "touched")}))
    with pytest.raises(BadData, match="would call"):
        load_tokenizer(str(tmp_path / "meta.pkl"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("stoi", [None, [], {"ab": 0}, {"a": 0, "b": 0}, {"a": "0"}, {}])
def test_a_meta_pkl_without_characters_is_refused(stoi: Any, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": stoi}))
    with pytest.raises(BadData):
        load_tokenizer(str(tmp_path / "meta.pkl"))
