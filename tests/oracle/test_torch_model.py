"""The PyTorch twin against GPT-2 written out in NumPy, from llmc's tensors, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from llmc.config import TrainConfig
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from llmc.weights.random import random_tensors

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch")
from llmc.check.torch_model import GPT2  # noqa: E402 -- needs torch

CONFIG = ModelConfig(layers=2, heads=2, channels=16, context=8, vocab_size=50)
Doubles = NDArray[np.float64]


@pytest.fixture
def tensors() -> dict[str, NDArray[np.float32]]:
    """Weights far from their initialisation, so that every bias and every norm counts."""
    generator = np.random.default_rng(11)
    made = {
        name: (0.3 * generator.standard_normal(shape)).astype(np.float32)
        for name, shape in tensor_shapes(CONFIG).items()
    }
    made["wte"][CONFIG.vocab_size :] = 0
    return made


def some_ids() -> tuple[Tensor, Tensor]:
    ids = torch.from_numpy(np.random.default_rng(5).integers(0, CONFIG.vocab_size, (3, 9)))
    return ids[:, :-1], ids[:, 1:]


def logits_in_numpy(tensors: dict[str, Doubles], ids: list[int]) -> Doubles:
    """GPT-2 over one row of T ids, by its formulas: (T,V)."""

    def norm(x: Doubles, weight: Doubles, bias: Doubles) -> Doubles:
        centred = x - x.mean(1, keepdims=True)
        normal: Doubles = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return normal * weight + bias

    T, HS = len(ids), CONFIG.channels // CONFIG.heads
    x = tensors["wte"][ids] + tensors["wpe"][:T]
    for i in range(CONFIG.layers):
        w = {name: values[i] for name, values in tensors.items() if name not in ("wte", "wpe")}
        qkv = norm(x, w["ln1w"], w["ln1b"]) @ w["qkvw"].T + w["qkvb"]
        q, k, v = np.split(qkv, 3, axis=1)
        heads = []
        for h in range(CONFIG.heads):
            at = slice(h * HS, (h + 1) * HS)
            scores = q[:, at] @ k[:, at].T / math.sqrt(HS)
            scores[np.triu_indices(T, 1)] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, at])
        x = x + np.concatenate(heads, axis=1) @ w["attprojw"].T + w["attprojb"]
        u = norm(x, w["ln2w"], w["ln2b"]) @ w["fcw"].T + w["fcb"]
        u = 0.5 * u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + u @ w["fcprojw"].T + w["fcprojb"]
    return norm(x, tensors["lnfw"], tensors["lnfb"]) @ tensors["wte"][: CONFIG.vocab_size].T


def test_logits_and_loss_are_gpt2s(tensors: dict[str, NDArray[np.float32]]) -> None:
    inputs, targets = some_ids()
    logits, loss = GPT2(CONFIG).double().load(tensors)(inputs, targets)
    doubles = {name: values.astype(np.float64) for name, values in tensors.items()}
    expected = np.stack([logits_in_numpy(doubles, row) for row in inputs.tolist()])
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    probabilities = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    chosen = np.take_along_axis(probabilities, targets.numpy()[..., None], axis=-1)
    assert loss.item() == pytest.approx(-np.log(chosen).mean(), rel=1e-12)


def test_float32_is_near_its_double(tensors: dict[str, NDArray[np.float32]]) -> None:
    inputs, _ = some_ids()
    single, _ = GPT2(CONFIG).load(tensors)(inputs)
    double, _ = GPT2(CONFIG).double().load(tensors)(inputs)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert (single - double).norm() < 1e-5 * double.norm()
    assert (single - double).norm() > 0


def test_tensors_go_in_and_come_out(tensors: dict[str, NDArray[np.float32]]) -> None:
    out = GPT2(CONFIG).load(tensors).tensors()
    assert list(out) == list(tensor_shapes(CONFIG))
    for name, values in tensors.items():
        np.testing.assert_array_equal(out[name], values)


def test_a_mapped_checkpoint_goes_in(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_checkpoint(path, CONFIG, random_tensors(CONFIG, 1))
    _, tensors = read_checkpoint(path)
    out = GPT2(CONFIG).load(tensors).tensors()
    for name, values in tensors.items():
        np.testing.assert_array_equal(out[name], values)


def test_gradients_are_the_losss(tensors: dict[str, NDArray[np.float32]]) -> None:
    """One entry of every tensor is moved a little; the loss follows as its gradient says."""
    inputs, targets = some_ids()
    model = GPT2(CONFIG).double().load(tensors)
    model(inputs, targets)[1].backward()
    gradients = model.gradients()
    generator = np.random.default_rng(2)
    for name, shape in tensor_shapes(CONFIG).items():
        assert gradients[name].shape == shape
        rows = (CONFIG.vocab_size, *shape[1:]) if name == "wte" else shape
        at = tuple(int(generator.integers(0, size)) for size in rows)
        losses = []
        for step in (1e-5, -1e-5):
            moved = {key: values.astype(np.float64) for key, values in tensors.items()}
            moved[name][at] += step
            with torch.no_grad():
                losses.append(GPT2(CONFIG).double().load(moved)(inputs, targets)[1].item())
        slope = (losses[0] - losses[1]) / 2e-5
        assert gradients[name][at] == pytest.approx(slope, rel=1e-5, abs=1e-9), name
    assert not gradients["wte"][CONFIG.vocab_size :].any()


def test_the_future_is_not_seen(tensors: dict[str, NDArray[np.float32]]) -> None:
    inputs, _ = some_ids()
    model = GPT2(CONFIG).load(tensors)
    changed = inputs.clone()
    changed[:, 5] = (changed[:, 5] + 1) % CONFIG.vocab_size
    before, after = model(inputs)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_an_untrained_model_knows_nothing() -> None:
    model = GPT2(CONFIG).load(dict(random_tensors(CONFIG, 3)))
    assert model(*some_ids())[1].item() == pytest.approx(math.log(CONFIG.vocab_size), abs=0.1)


def test_only_matrices_decay() -> None:
    model = GPT2(CONFIG)
    optimizer = model.adamw(TrainConfig(lr=0.5, weight_decay=0.1, beta1=0.8, eps=1e-7))
    decaying, still = optimizer.param_groups
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.1, 0.0)
    assert (decaying["lr"], decaying["betas"], decaying["eps"]) == (0.5, (0.8, 0.999), 1e-7)
    assert {p.dim() for p in decaying["params"]} == {2}
    assert {p.dim() for p in still["params"]} == {1}
    assert any(p is model.wpe.weight for p in decaying["params"])
    assert any(p is model.wte.weight for p in decaying["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )


def test_it_learns_a_sentence_by_heart() -> None:
    torch.manual_seed(0)
    model = GPT2(CONFIG).load(dict(random_tensors(CONFIG, 3)))
    optimizer = model.adamw(TrainConfig(lr=1e-2))
    inputs, targets = some_ids()
    losses = []
    for _ in range(30):
        _, loss = model(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
