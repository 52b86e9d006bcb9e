"""The engine and its PyTorch twin over the same steps, in float32 and in float64.

``python -m tests.programs.parity`` prints the tables of ``docs/measured/parity.md``; the tests hold
the same figures to ``llmc/check/tolerances.py``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llmc.check.debug_state import read_debug_state
from llmc.check.tolerances import STEPS
from llmc.check.torch_model import GPT2
from llmc.check.torch_muon import beside
from llmc.config import TrainConfig
from llmc.model import ModelConfig
from llmc.paths import cache_dir
from llmc.weights.checkpoint import read_checkpoint
from llmc.weights.random import random_tensors
from tests.helpers.dropout import drop_in
from tests.helpers.engine import Flags, Native, build, succeeded
from tests.helpers.events import steps_of
from tests.helpers.models import (
    RAGGED,
    SMALL,
    Floats,
    random_tokens,
    save_model,
    save_tokens,
    some_tensors,
)

Values = NDArray[np.floating]


@dataclass(frozen=True)
class Setup:
    """A model, its weights, and the batches it is trained on, in order."""

    config: ModelConfig
    train: TrainConfig
    tensors: Mapping[str, Floats]
    tokens: NDArray[np.int64]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets (B,T) of a step, as the engine reads them without shuffling."""
        B, T = self.train.batch_size, self.train.seq_len
        run = torch.from_numpy(self.tokens[step * B * T : (step + 1) * B * T + 1])
        return run[:-1].view(B, T), run[1:].view(B, T)


@dataclass(frozen=True)
class Outcome:
    """What one implementation makes of a setup: the first step in detail, and all of them."""

    first: dict[str, Values]  # logits, loss, and each tensor's gradient
    last: dict[str, Values]  # the losses of the steps, and each parameter after them


@dataclass(frozen=True)
class Distances:
    """Relative distances of one tensor."""

    ours: float  # ours to torch's float32
    ours_to_double: float | None
    torchs_own: float | None  # torch's float32 to its float64


def setup(config: ModelConfig, B: int, T: int, lr: float, weight_decay: float = 0.0) -> Setup:
    train = TrainConfig(batch_size=B, seq_len=T, lr=lr, weight_decay=weight_decay, steps=STEPS)
    whole_gpt2 = config == ModelConfig()
    tensors = dict(random_tensors(config, 1)) if whole_gpt2 else some_tensors(config)
    return Setup(config, train, tensors, random_tokens(STEPS * B * T + 1, config.vocab_size))


def gpt2_124m() -> Setup:
    """The full shape, initialised as GPT-2 was."""
    return setup(ModelConfig(), B=4, T=64, lr=1e-4)


def small(weight_decay: float = 0.0) -> Setup:
    return setup(SMALL, B=4, T=64, lr=1e-3, weight_decay=weight_decay)


def ragged(weight_decay: float = 0.0) -> Setup:
    return setup(RAGGED, B=3, T=37, lr=1e-3, weight_decay=weight_decay)


def clipped(weight_decay: float = 0.0) -> Setup:
    """The ragged model, its gradient held to a fifth of its norm, more or less."""
    given = ragged(weight_decay)
    return replace(given, train=replace(given.train, grad_clip=0.2))


def muon(weight_decay: float = 0.0) -> Setup:
    """The ragged model with Muon."""
    given = ragged(weight_decay)
    return replace(given, train=replace(given.train, optimizer="muon"))


def dropout(weight_decay: float = 0.0) -> Setup:
    """The ragged model with dropout."""
    given = ragged(weight_decay)
    return replace(given, train=replace(given.train, dropout=0.15))


def torchs(given: Setup, dtype: torch.dtype, *, autocast: bool = False) -> Outcome:
    """Run the twin; with ``autocast`` its forward pass as PyTorch mixes float32 with bfloat16."""
    model = GPT2(given.config).to(dtype).load(given.tensors)
    adamw = model.adamw(given.train, fused=True)
    optimizers = [adamw] if given.train.optimizer == "adamw" else beside(adamw, model, given.train)
    masks = drop_in(model, given.train) if given.train.dropout else None
    first: dict[str, Values] = {}
    losses = []
    for step in range(given.train.steps):
        if masks is not None:
            masks.step = step
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits, loss = model(*given.batch(step))
        model.zero_grad()
        loss.backward()
        if step == 0:
            first = {
                "logits": logits.detach().to(dtype).numpy(),
                "loss": loss.detach().to(dtype).numpy(),
            }
            first |= {name: grad.copy() for name, grad in model.gradients().items()}
        del logits
        if given.train.grad_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), given.train.grad_clip)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return Outcome(first, {"losses": np.array(losses), **model.tensors()})


def ours(
    given: Setup,
    native: Native,
    folder: Path,
    *,
    isa: str | None = None,
    threads: int = 2,
    **precision: object,
) -> Outcome:
    """Run the engine twice: for the first step's details, and for all steps.

    ``precision`` are more of its flags, those of ``debug-state`` and ``train`` alike.
    """
    config, train = given.config, given.train
    model, data, out = folder / "model.bin", folder / "tokens.bin", folder / "out"
    if not model.exists():
        save_model(model, config, given.tensors)
        save_tokens(data, given.tokens, config.vocab_size)
    shutil.rmtree(out, ignore_errors=True)
    common: Flags = {"model": model, "data": data, "threads": threads, **precision}
    common |= {"batch_size": train.batch_size, "seq_len": train.seq_len}
    common |= {"dropout": train.dropout, "seed": train.seed}
    state = folder / "state.bin"
    succeeded(native("debug-state", isa=isa, out=state, **common))
    batch = read_debug_state(state, config)
    first: dict[str, Values] = {
        "logits": batch.logits,
        "loss": np.array(batch.loss),
        **batch.gradients,
    }
    state.unlink()
    flags: Flags = {"steps": train.steps, "lr": train.lr, "weight_decay": train.weight_decay}
    flags |= {"grad_clip": train.grad_clip, "optimizer": train.optimizer}
    flags |= {"shuffle": 0, "sample_every": 0, "out": out}
    succeeded(native("train", isa=isa, **common, **flags))
    _, parameters = read_checkpoint(out / "model.bin")
    last: dict[str, Values] = {name: np.array(values) for name, values in parameters.items()}
    shutil.copy(out / "metrics.jsonl", folder / "metrics.jsonl")
    shutil.rmtree(out)
    metrics = steps_of(folder)
    return Outcome(first, {"losses": np.array([line["train_loss"] for line in metrics]), **last})


def distance(got: Values, expected: Values) -> float:
    """Return ‖got − expected‖ / ‖expected‖, summed in float64."""
    difference = np.asarray(got, np.float64) - np.asarray(expected, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(expected, np.float64)))


def distances(
    mine: Mapping[str, Values], single: Mapping[str, Values], double: Mapping[str, Values] | None
) -> dict[str, Distances]:
    assert set(mine) == set(single)
    return {
        name: Distances(
            distance(mine[name], single[name]),
            None if double is None else distance(mine[name], double[name]),
            None if double is None else distance(single[name], double[name]),
        )
        for name in mine
    }


def table(title: str, rows: Mapping[str, Distances]) -> str:
    lines = [
        f"### {title}",
        "",
        "| tensor | ours to float32 | ours to float64 | torch's float32 to float64 |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row.ours:.1e} | {row.ours_to_double:.1e} | {row.torchs_own:.1e} |"
        )
    return "\n".join(lines) + "\n"


def bf16_table(title: str, rows: Mapping[str, tuple[float, float]]) -> str:
    lines = [
        f"### {title}",
        "",
        "| tensor | ours in bf16 to float64 | autocast to float64 |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {own:.1e} | {theirs:.1e} |" for name, (own, theirs) in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables of docs/measured/parity.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--small-only", action="store_true", help="leave out GPT-2 124M")
    setups = {"Small model": small()}
    if not parser.parse_args().small_only:
        setups["GPT-2 124M"] = gpt2_124m()
    native = build(cache_dir())
    torch.set_num_threads(os.cpu_count() or 1)
    for title, given in setups.items():
        with tempfile.TemporaryDirectory() as folder:
            mine = ours(given, native, Path(folder))
            half = ours(given, native, Path(folder), dtype="bf16")
        single, double = torchs(given, torch.float32), torchs(given, torch.float64)
        first = distances(mine.first, single.first, double.first)
        last = distances(mine.last, single.last, double.last)
        print(table(f"{title}: one step, gradients under their tensors' names", first))
        print(table(f"{title}: after {STEPS} steps of AdamW", last))
        one_step = replace(given, train=replace(given.train, steps=1))
        mixed = torchs(one_step, torch.float32, autocast=True).first
        rows = {
            name: (distance(half.first[name], exact), distance(mixed[name], exact))
            for name, exact in double.first.items()
        }
        print(bf16_table(f"{title}: one step in bf16", rows))


if __name__ == "__main__":
    main()
