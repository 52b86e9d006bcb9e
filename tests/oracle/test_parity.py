"""The engine computes what PyTorch computes: logits, loss, gradients, ten steps, greedy tokens."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache as cached
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmc.check.tolerances import (
    AFTER_TEN_STEPS,
    FORWARD_AND_BACKWARD,
    GREEDY_LOGIT,
    TIMES_TORCHS_OWN,
    TORCHS_OWN_124M,
)
from llmc.model import tensor_shapes
from tests.helpers.engine import Native, succeeded
from tests.helpers.models import RAGGED, save_model

torch = pytest.importorskip("torch")
from llmc.check.torch_model import GPT2  # noqa: E402
from tests.programs import parity  # noqa: E402

if TYPE_CHECKING:
    from tests.programs.parity import Outcome, Setup, Values

DECAYS = (0.0, 0.1)
SETUPS: dict[str, Callable[[float], Setup]] = {
    "small": parity.small,
    "ragged": parity.ragged,
    "clipped": parity.clipped,
    "muon": parity.muon,
    "dropout": parity.dropout,
}


@cached
def twin(name: str, decay: float, *, double: bool) -> Outcome:
    return parity.torchs(SETUPS[name](decay), torch.float64 if double else torch.float32)


def hold(
    mine: Mapping[str, Values],
    single: Mapping[str, Values],
    most: float,
    torchs_own: Callable[[str], float],
) -> None:
    """Hold every tensor to the tolerance, or to torch's own distance where that is larger."""
    wrong = []
    for name, row in parity.distances(mine, single, None).items():
        if row.ours <= most:
            continue
        own = torchs_own(name)
        if not row.ours <= TIMES_TORCHS_OWN * own or own <= most:
            wrong.append(f"{name}: {row.ours:.2e}, torch's own {own:.2e}, bound {most:g}")
    assert not wrong, wrong


@pytest.mark.parametrize(("name", "decay"), list(itertools.product(SETUPS, DECAYS)))
def test_a_step_and_ten_of_them(
    isa: str, name: str, decay: float, native: Native, tmp_path: Path
) -> None:
    mine = parity.ours(SETUPS[name](decay), native, tmp_path, isa=isa)
    single, double = (twin(name, decay, double=double) for double in (False, True))
    hold(
        mine.first,
        single.first,
        FORWARD_AND_BACKWARD,
        lambda tensor: parity.distance(single.first[tensor], double.first[tensor]),
    )
    hold(
        mine.last,
        single.last,
        AFTER_TEN_STEPS,
        lambda tensor: parity.distance(single.last[tensor], double.last[tensor]),
    )
    # Against float64 as well: two float32 programs could share an error.
    for got, exact, near, most in (
        (mine.first, double.first, single.first, FORWARD_AND_BACKWARD),
        (mine.last, double.last, single.last, AFTER_TEN_STEPS),
    ):
        for tensor, row in parity.distances(got, near, exact).items():
            assert row.ours_to_double is not None and row.torchs_own is not None
            assert row.ours_to_double <= max(most, TIMES_TORCHS_OWN * row.torchs_own), (tensor, row)
    padding = mine.last["wte"][SETUPS[name](decay).config.vocab_size :]
    assert not padding.any()


def test_ten_steps_move_every_tensor() -> None:
    """Otherwise equal parameters would prove nothing."""
    given = parity.ragged()
    moved = twin("ragged", 0.0, double=False).last
    for name in tensor_shapes(given.config):
        assert parity.distance(moved[name], given.tensors[name]) > 10 * AFTER_TEN_STEPS, name


@pytest.mark.full
def test_gpt2_124m(native: Native, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The full shape. A float64 twin would take minutes: its distances stand in the table."""
    folder = tmp_path_factory.mktemp("gpt2-124m")
    given = parity.gpt2_124m()
    try:
        mine = parity.ours(given, native, folder)
    finally:
        shutil.rmtree(folder)
    single = parity.torchs(given, torch.float32)
    hold(mine.first, single.first, FORWARD_AND_BACKWARD, lambda _: 0)
    hold(mine.last, single.last, AFTER_TEN_STEPS, lambda tensor: TORCHS_OWN_124M.get(tensor, 0))


@pytest.mark.parametrize("prompt", [1, 30, 60])
def test_greedy_tokens_are_the_twins(prompt: int, isa: str, native: Native, tmp_path: Path) -> None:
    """The decoder with its cache of keys and values, and past the context, where it keeps the newer
    half and reads it again from position 0."""
    config, tensors = RAGGED, parity.ragged().tensors
    model = save_model(tmp_path / "model.bin", config, tensors)
    ids = [(7 * i + 5) % config.vocab_size for i in range(prompt)]
    written = [
        int(line)
        for line in succeeded(
            native(
                "sample",
                isa=isa,
                model=model,
                prompt=",".join(map(str, ids)),
                tokens=60,
                temperature=0,
            )
        ).stdout.split()
    ]
    assert len(written) == 60
    reference = GPT2(config).load(tensors)
    context: list[int] = []

    def feed(token: int) -> None:
        if len(context) == config.context:
            del context[: len(context) - len(context) // 2]
        context.append(token)

    for token in ids:
        feed(token)
    for at, token in enumerate(written):
        with torch.no_grad():
            logits = reference(torch.tensor([context]))[0][0, -1]
        assert logits[token] >= logits.max() - GREEDY_LOGIT, (at, token, int(logits.argmax()))
        feed(token)
    assert len(set(written)) > 1


def test_sampling_follows_the_twins_probabilities(native: Native, tmp_path: Path) -> None:
    """Temperature 1 over the first token, many seeds: frequencies as the softmax says."""
    given = parity.ragged()
    config = replace(given.config, vocab_size=4)
    tensors = dict(given.tensors)
    tensors["wte"] = tensors["wte"][:128].copy()
    tensors["wte"][4:] = 0
    model = save_model(tmp_path / "model.bin", config, tensors)
    probabilities = torch.softmax(GPT2(config).load(tensors)(torch.tensor([[3]]))[0][0, -1], 0)
    counts = [0] * 4
    for seed in range(400):
        done = succeeded(native("sample", model=model, prompt=3, tokens=1, seed=seed))
        counts[int(done.stdout)] += 1
    for got, p in zip(counts, probabilities.tolist(), strict=True):
        assert abs(got - 400 * p) <= 5 * (400 * p * (1 - p)) ** 0.5 + 3, (counts, probabilities)
