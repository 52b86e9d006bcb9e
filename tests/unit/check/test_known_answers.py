"""The stored answers are PyTorch's, and tell a right engine from a wrong one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.check.known_answers import (
    ANSWERS,
    MODEL,
    Answers,
    answers_of,
    distances,
    known_answers,
    tensors,
    tokens,
)
from llmc.check.tolerances import AFTER_TEN_STEPS, FORWARD_AND_BACKWARD, STEPS
from llmc.errors import BadData

WEIGHTS_AND_TOKENS = "03165d07df8ccb090a5f4d38266e2bcce1d699458f4b5a51865574a5cc738ba7"


def test_they_are_what_pytorch_computes() -> None:
    torch = pytest.importorskip("torch")
    from tests.programs.known_answers import shown, torchs_answers

    known = known_answers()
    for near in (distances(torchs_answers(), known), distances(known, torchs_answers())):
        assert max(near[0].values()) < 1e-10
        assert max(near[1].values()) < 1e-8
    first, last = distances(torchs_answers(torch.float32), known)
    assert 1e-9 < max(first.values()) <= FORWARD_AND_BACKWARD
    assert 1e-9 < max(last.values()) <= AFTER_TEN_STEPS
    assert shown(known) == ANSWERS.read_text(encoding="utf-8")


def test_every_machine_makes_the_same_weights_and_tokens() -> None:
    digest = hashlib.sha256(tokens().astype("<i8").tobytes())
    for values in tensors().values():
        digest.update(values.astype("<f4").tobytes())
    assert digest.hexdigest() == WEIGHTS_AND_TOKENS
    assert len(set(tokens().tolist())) > 0.8 * MODEL.vocab_size
    for name, values in tensors().items():
        assert len(np.unique(values)) > 0.7 * values.size, name  # a quarter of wte is padding


def found(change: Callable[[str, Any], Any] = lambda name, values: values) -> Answers:
    """Answers of which the tensors are made up: the weights, each of them changed."""
    made = {name: change(name, values.astype(np.float64)) for name, values in tensors().items()}
    return answers_of([1.0] * STEPS, made, made)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_projections_measure_the_distance(size: float) -> None:
    random = np.random.default_rng(5)

    def changed(name: str, values: Any) -> Any:
        change = random.standard_normal(values.shape)
        return values + size * change * np.linalg.norm(values) / np.linalg.norm(change)

    first, last = distances(found(changed), found())
    assert all(
        0.3 * size < first[name] < 2 * size for name in first if name not in ("loss", "qkvb")
    )
    assert {**first, "loss": 0} == {**{k: v for k, v in last.items() if k != "losses"}, "loss": 0}


def test_one_wrong_element_shows_fully() -> None:
    def changed(name: str, values: Any) -> Any:
        values.flat[7] += 0.01
        return values

    first, _ = distances(found(changed), found())
    norms = {name: np.linalg.norm(values.astype(np.float64)) for name, values in tensors().items()}
    for name, distance in first.items():
        if name not in ("loss", "qkvb"):
            assert distance == pytest.approx(0.01 / norms[name], rel=1e-6), name


def test_the_bias_of_the_keys_and_nothing_else_is_left_out() -> None:
    def shifted(first: int, last: int) -> dict[str, float]:
        def changed(name: str, values: Any) -> Any:
            if name == "qkvb":
                values[:, first:last] += 0.1
            return values

        return distances(found(changed), found())[0]

    C = MODEL.channels
    assert shifted(C, 2 * C)["qkvb"] == 0
    for at in (0, C - 1, 2 * C, 3 * C - 1):
        assert shifted(at, at + 1)["qkvb"] > 0.01


def test_losses_count() -> None:
    known = known_answers()
    wrong = replace(known, losses=[*known.losses[:-1], known.losses[-1] * 1.01])
    first, last = distances(wrong, known)
    assert first["loss"] == 0
    assert last["losses"] == pytest.approx(0.01 / math.sqrt(STEPS), rel=0.1)
    wrong = replace(known, losses=[known.losses[0] * 1.01, *known.losses[1:]])
    assert distances(wrong, known)[0]["loss"] == pytest.approx(0.01)


def test_a_nan_is_far_from_everything() -> None:
    known = known_answers()
    row = [math.nan] * len(known.gradients["fcw"])
    first, _ = distances(replace(known, gradients={**known.gradients, "fcw": row}), known)
    assert math.isnan(first["fcw"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: json.dumps({**asdict(known_answers()), "gradients": {}}),
        lambda text: json.dumps({**asdict(known_answers()), "losses": [1.0]}),
        lambda text: json.dumps({**asdict(known_answers()), "gradients": [1]}),
        lambda text: text.replace('"fcw"', '"fwc"'),
    ],
)
def test_a_damaged_file_is_said_to_be_so(damage: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(damage(ANSWERS.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(BadData, match="reinstall llmc"):
        known_answers(path)


def test_a_missing_file_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"nothing\.json: No such file .*reinstall llmc"):
        known_answers(tmp_path / "nothing.json")
