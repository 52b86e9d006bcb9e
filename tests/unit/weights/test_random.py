"""First weights: the engine's are llmc's, bit for bit, and both are normal numbers."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from llmc.model import ModelConfig
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from llmc.weights.random import RESIDUAL, RandomModel, normals, random_tensors, splitmix64
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.models import RAGGED, SMALL

SHAPES = [SMALL, RAGGED, ModelConfig(layers=1, heads=1, channels=1, context=1, vocab_size=2),
          ModelConfig(layers=7, heads=3, channels=96, context=130, vocab_size=1000)]  # fmt: skip


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: f"{config.layers}x{config.channels}")
@pytest.mark.parametrize("seed", [0, 1337, 2**53])
def test_the_engine_makes_the_same_file(
    seed: int, config: ModelConfig, native: Native, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "llmc.bin", config, random_tensors(config, seed))
    expected = (tmp_path / "llmc.bin").read_bytes()
    shape: Flags = {"layers": config.layers, "heads": config.heads, "channels": config.channels}
    shape |= {"context": config.context, "vocab_size": config.vocab_size}
    for threads in (1, 3):
        out = tmp_path / f"{threads}.bin"
        succeeded(native("init", out=out, seed=seed, threads=threads, **shape))
        assert out.read_bytes() == expected


def test_the_engine_refuses_what_is_no_model(native: Native, tmp_path: Path) -> None:
    assert "init needs --out FILE" in refused(native("init"), 2)
    out = tmp_path / "model.bin"
    assert "--heads 12 does not divide --channels 100" in refused(
        native("init", out=out, channels=100), 2
    )
    env = {"LLMC_MEMORY": "1000000"}
    assert "the model needs 0.5" in refused(native("init", out=out, env=env), 2)
    assert not out.exists()


def test_splitmix64_gives_its_published_numbers() -> None:
    """Those of the reference implementation for the seed 1234567 (Vigna's splitmix64.c)."""
    assert splitmix64(1234567, 0, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(2**64 - 3, 2, 3).tolist() == splitmix64(2**64 - 3, 0, 5).tolist()[2:]


def test_quantiles_are_pythons() -> None:
    """Of random words, and of the first and last: both tails to their ends."""
    ends = np.arange(2000, dtype=np.uint64) << np.uint64(12)
    words = np.concatenate([splitmix64(3, 0, 20_000), ends, ~ends])
    middles = [(2 * (word >> 12) + 1) / 2**53 for word in words.tolist()]
    expected = [statistics.NormalDist().inv_cdf(p) for p in middles]
    np.testing.assert_allclose(normals(words), expected, rtol=3e-15)


def test_many_are_normal() -> None:
    """By how many lie below each of 200 quantiles: Kolmogorov's bound, passed once in a million."""
    values = np.sort(normals(splitmix64(1, 0, 1_000_000)))
    points = np.linspace(-4, 4, 201)
    below = np.searchsorted(values, points) / values.size
    exact = [statistics.NormalDist().cdf(x) for x in points]
    assert np.abs(below - exact).max() < 2.7 / math.sqrt(values.size)
    lagged = normals(splitmix64(1, 0, 100_001))
    assert abs(np.corrcoef(lagged[1:], lagged[:-1])[0, 1]) < 5 / math.sqrt(100_000)


def test_each_tensor_has_its_own_numbers_and_its_own_spread() -> None:
    config = SHAPES[3]
    made = dict(random_tensors(config, 5))
    for name, values in made.items():
        if name.endswith("b") or name.startswith("ln"):
            assert (values == float(name.startswith("ln") and name.endswith("w"))).all()
            continue
        std = 0.02 / math.sqrt(14) if name in RESIDUAL else 0.02
        bound = 5 / math.sqrt(values.size)
        assert values.std() == pytest.approx(std, rel=bound)
        assert abs(values.mean()) < bound * std
    flat = {name: values.ravel()[:1000] for name, values in made.items() if values.std()}
    names = list(flat)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert abs(np.corrcoef(flat[one], flat[other])[0, 1]) < 5 / math.sqrt(1000)
    assert (made["wte"] != dict(random_tensors(config, 6))["wte"]).mean() > 0.999


def test_one_tensor_alone_is_the_same(native: Native, tmp_path: Path) -> None:
    shape: Flags = {"layers": 3, "heads": 5, "channels": 40, "context": 41, "vocab_size": 301}
    succeeded(native("init", out=tmp_path / "model.bin", seed=9, **shape))
    _, saved = read_checkpoint(tmp_path / "model.bin")
    np.testing.assert_array_equal(
        RandomModel(RAGGED, 9).stored("fcw", 2).values, np.asarray(saved["fcw"])[2]
    )
