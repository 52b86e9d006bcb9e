"""What debug-state writes is read back; what is no such file is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmc.check.debug_state import read_debug_state
from llmc.errors import BadData
from llmc.model import tensor_shapes
from tests.helpers.engine import Flags, build, succeeded
from tests.helpers.models import SMALL, random_tokens, save_model, save_tokens


@pytest.fixture(scope="module")
def state(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    run = random_tokens(2 * 5 + 1, SMALL.vocab_size)
    files: Flags = {
        "model": save_model(folder / "model.bin", SMALL),
        "data": save_tokens(folder / "tokens.bin", run, SMALL.vocab_size),
    }
    out = folder / "state.bin"
    succeeded(build(cache)("debug-state", out=out, batch_size=2, seq_len=5, **files))
    return out


def test_a_state_has_the_batch_and_every_gradient(state: Path) -> None:
    batch = read_debug_state(state, SMALL)
    run = random_tokens(2 * 5 + 1, SMALL.vocab_size)
    assert batch.tokens.ravel().tolist() == run[:-1].tolist()
    assert batch.targets.ravel().tolist() == run[1:].tolist()
    assert batch.logits.shape == (2, 5, SMALL.vocab_size)
    # The loss is that of the logits, so the pieces lie where they are looked for.
    logits = batch.logits.astype(np.float64)
    chosen = np.take_along_axis(logits, batch.targets[..., None].astype(np.int64), axis=2)
    assert batch.loss == pytest.approx(np.mean(np.log(np.exp(logits).sum(2)) - chosen[..., 0]))
    shapes = {name: gradient.shape for name, gradient in batch.gradients.items()}
    assert shapes == tensor_shapes(SMALL)
    assert not batch.gradients["wte"][SMALL.vocab_size :].any()
    assert all(gradient.any() for gradient in batch.gradients.values())


@pytest.mark.parametrize("keep", [0, 7, 1024, -4])
def test_a_state_cut_short_is_refused(keep: int, state: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.bin"
    path.write_bytes(state.read_bytes()[:keep])
    with pytest.raises(BadData, match=r"short\.bin is (not a debug state|cut short)"):
        read_debug_state(path, SMALL)


def test_another_file_is_refused(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(b"LLMC" + state.read_bytes()[4:])
    with pytest.raises(BadData, match="not a debug state"):
        read_debug_state(path, SMALL)
