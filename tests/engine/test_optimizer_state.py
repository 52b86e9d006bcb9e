"""AdamW's means in bf16 and 8bit: PyTorch's update, rounded fairly, by the same bits anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmc.check.debug_state import read_debug_state
from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.checkpoint import read_checkpoint
from llmc.weights.state import MOMENTS_AT, read_training_state, training_state_bytes
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.events import json_lines
from tests.helpers.models import RAGGED, Floats, save_model, save_tokens, with_header_crc
from tests.programs.torture import settings

NARROW = ["bf16", "8bit"]
OF_MODEL = ("wte", "wpe", "lnfw", "lnfb")
MATRICES = ("wte", "wpe", "qkvw", "attprojw", "fcw", "fcprojw")
STEPS = 5
# Relative, of what is not rounded to the type: an update by a gradient that is right to 1e-5.
PARAMETER = 1e-6
# Of a step of the type, by which the rounded may lie beyond its two neighbours.
BEYOND = 0.01


# ---- the stored means, read as docs/reference/formats.md says ------------------------------------


@dataclass(frozen=True)
class Mean:
    """A tensor's mean as stored, and the distance from each number to the next there is."""

    values: Floats
    unit: Floats  # of each number's block; zeros for bf16


def powers(codes: NDArray[Any], bits: int) -> Floats:
    """Return F(c): the float whose bits are those of 1 plus c steps."""
    return ((127 << 23) + (codes.astype(np.uint32) << bits)).astype(np.uint32).view(np.float32)


def decoded(raw: bytes, kind: str, *, squares: bool) -> tuple[Floats, Floats]:
    """Return the numbers of some bytes of a mean, and the unit of each."""
    if kind == "bf16":
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        return values, np.zeros_like(values)
    blocks = np.frombuffer(raw, np.dtype([("unit", "<f4"), ("codes", "u1", 256)]))
    codes, unit = blocks["codes"], blocks["unit"][:, None]
    if squares:
        values = unit * powers(codes, 20)
    else:
        sign = np.where(codes & 128, np.float32(-1), np.float32(1))
        values = sign * unit * (powers(codes & 127, 19) - 1)
    return values.ravel(), np.repeat(unit, 256)


def means(path: Path, config: ModelConfig) -> dict[str, tuple[Mean, Mean]]:
    """Return m and v of every tensor of a state.bin, in the tensor's shape."""
    kind = read_training_state(path).optimizer_state
    raw, at = path.read_bytes(), MOMENTS_AT
    found: dict[str, list[Mean]] = {}
    for squares in (False, True):
        for name, shape in tensor_shapes(config).items():
            layers = 1 if name in OF_MODEL else config.layers
            n = int(np.prod(shape)) // layers
            size = 2 * n if kind == "bf16" else -(-n // 256) * 260
            parts = []
            for _ in range(layers):
                parts.append(decoded(raw[at : at + size], kind, squares=squares))
                at += size
            values, unit = (np.stack([p[i][:n] for p in parts]).reshape(shape) for i in range(2))
            found.setdefault(name, []).append(Mean(values, unit))
    assert at == len(raw)
    return {name: (m, v) for name, (m, v) in found.items()}


def spacing(kind: str, exact: Floats, unit: Floats, *, squares: bool) -> Floats:
    """Return the distance of the two stored numbers that each exact one lies between."""
    size = np.abs(exact)
    if kind == "bf16":
        return np.asarray(2.0 ** (np.floor(np.log2(np.maximum(size, 1e-37))) - 7), np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        float_of = size / unit + (0 if squares else 1)
    steps = 3 if squares else 4
    return np.asarray(unit * 2.0 ** (np.floor(np.log2(np.maximum(float_of, 1))) - steps))


# ---- every update against PyTorch's --------------------------------------------------------------


@pytest.mark.parametrize("kind", NARROW)
def test_every_update_is_pytorchs_and_then_rounded_fairly(
    kind: str, native: Native, tmp_path: Path
) -> None:
    """From each checkpoint the next: the means that are read, its gradient, torch.optim.AdamW.

    The parameters are those of the update before its means are rounded. A stored mean is one of the
    two neighbours of the exact one, the farther of them a quarter of the times (which it never is
    when rounded to the nearest), and over all of them the errors cancel.
    """
    torch = pytest.importorskip("torch")
    from tests.programs import parity

    given = parity.ragged(0.1)
    train, out = given.train, tmp_path / "out"
    batch: Flags = {"batch_size": train.batch_size, "seq_len": train.seq_len}
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", given.config, given.tensors),
        "data": save_tokens(tmp_path / "tokens.bin", given.tokens, given.config.vocab_size),
        **batch,
    }
    flags |= {"lr": train.lr, "weight_decay": train.weight_decay, "optimizer_state": kind}
    flags |= {"steps": STEPS, "save_every": 1, "keep": STEPS, "shuffle": 0, "sample_every": 0}
    succeeded(native("train", out=out, threads=2, **flags))
    now = {name: np.array(values) for name, values in given.tensors.items()}
    states = {name: (np.zeros_like(x), np.zeros_like(x)) for name, x in now.items()}
    errors = []
    for step in range(STEPS):
        BT = train.batch_size * train.seq_len
        rest = given.tokens[step * BT :]
        model = out / "checkpoints" / f"{step:08}" / "model.bin" if step else flags["model"]
        data = save_tokens(tmp_path / "batch.bin", rest, given.config.vocab_size)
        state = tmp_path / "state.bin"
        succeeded(native("debug-state", model=model, data=data, out=state, **batch))
        gradients = read_debug_state(state, given.config).gradients
        parameters = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in now.items()}
        groups = [
            {"params": [parameters[n]], "weight_decay": train.weight_decay if n in MATRICES else 0}
            for n in now
        ]
        adamw = torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2))
        for name, gradient in gradients.items():
            parameters[name].grad = torch.tensor(gradient)
            m, v = (torch.tensor(x) for x in states[name])
            adamw.state[parameters[name]] = {
                "step": torch.tensor(float(step)),
                "exp_avg": m,
                "exp_avg_sq": v,
            }
        adamw.step()
        folder = out / "checkpoints" / f"{step + 1:08}"
        _, saved = read_checkpoint(folder / "model.bin")
        now = {name: np.array(values) for name, values in saved.items()}
        for name, (m_now, v_now) in means(folder / "state.bin", given.config).items():
            exact = parameters[name].detach().numpy()
            assert parity.distance(now[name], exact) < PARAMETER, (step, name)
            kept = adamw.state[parameters[name]]
            for mean, key in ((m_now, "exp_avg"), (v_now, "exp_avg_sq")):
                squares = key == "exp_avg_sq"
                wanted = kept[key].numpy()
                # What is below the least square there is, is rounded up to it.
                between = (wanted != 0) & ((wanted >= mean.unit) | (not squares))
                step_size = spacing(kind, wanted, mean.unit, squares=squares)
                # A sum that nearly cancels is right to a part of what was added.
                slack = 1e-6 * np.maximum(np.abs(states[name][squares]), np.abs(wanted))
                error = mean.values - wanted
                assert np.all(np.abs(error) <= (1 + BEYOND) * step_size + slack, where=between)
                assert np.all(mean.values <= 1.01 * mean.unit, where=~between)
                fair = between & (slack < BEYOND * step_size)
                errors.append(error[fair] / step_size[fair])
            states[name] = (m_now.values, v_now.values)
    all_errors = np.concatenate(errors)
    assert all_errors.size > 400_000
    assert abs(all_errors.mean()) < 5 * 0.5 / all_errors.size**0.5
    assert 0.2 < (np.abs(all_errors) > 0.5).mean() < 0.3


# ---- the curve -----------------------------------------------------------------------------------


def chain(count: int, vocab_size: int, seed: int) -> NDArray[np.int64]:
    """Return tokens of which each is one of the four that follow the one before."""
    generator = np.random.default_rng(11)
    after = generator.integers(0, vocab_size, (vocab_size, 4))
    choices = np.random.default_rng(seed).integers(0, 4, count)
    tokens = np.zeros(count, np.int64)
    for i in range(1, count):
        tokens[i] = after[tokens[i - 1], choices[i]]
    return tokens


@pytest.mark.parametrize(
    "kinds", [NARROW[-1:], pytest.param(NARROW, marks=pytest.mark.full)], ids=["last", "all"]
)
def test_the_loss_falls_as_with_fp32(
    kinds: tuple[str, ...], native: Native, tmp_path: Path
) -> None:
    """Within a hundredth of its validation loss, which has come down from ln 128 by half."""
    config = ModelConfig(layers=2, heads=2, channels=64, context=32, vocab_size=128)
    from llmc.weights.random import random_tensors

    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", config, dict(random_tensors(config, 1))),
        "data": save_tokens(tmp_path / "train.bin", chain(60_000, 128, 1), 128),
        "val_data": save_tokens(tmp_path / "val.bin", chain(4_000, 128, 2), 128),
        "batch_size": 8,
        "seq_len": 32,
        "steps": 200,
        "lr": 3e-3,
        "val_every": 200,
        "val_batches": 15,
        "sample_every": 0,
        "threads": 2,
        "events": "json",
    }
    last = {}
    for kind in ("fp32", *kinds):
        lines = json_lines(succeeded(native("train", optimizer_state=kind, **flags)).stdout)
        last[kind] = [line["val_loss"] for line in lines if "val_loss" in line][-1]
    assert last["fp32"] < 0.5 * np.log(128)
    for kind in kinds:
        assert last[kind] == pytest.approx(last["fp32"], rel=0.01)
        assert last[kind] != last["fp32"]


# ---- reproducible --------------------------------------------------------------------------------


def left(out: Path) -> tuple[bytes, bytes]:
    """Return the newest checkpoint: weights and means, without the header that depends on times."""
    newest = max((out / "checkpoints").iterdir())
    return (newest / "model.bin").read_bytes(), (newest / "state.bin").read_bytes()[MOMENTS_AT:]


@pytest.mark.parametrize("kind", NARROW)
def test_the_same_bits_for_any_number_of_threads(
    isa: str, kind: str, native: Native, tmp_path: Path
) -> None:
    flags = {**settings(tmp_path, 3), "optimizer_state": kind, "sample_every": 0}
    for threads in (1, 2, 3, 7):
        succeeded(native("train", isa=isa, out=tmp_path / f"{threads}", threads=threads, **flags))
    first = left(tmp_path / "1")
    assert all(left(tmp_path / f"{threads}") == first for threads in (2, 3, 7))


@pytest.mark.parametrize("kind", NARROW)
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    kind: str, native: Native, tmp_path: Path
) -> None:
    flags = {**settings(tmp_path, 8), "optimizer_state": kind, "schedule": "constant"}
    succeeded(native("train", out=tmp_path / "calm", **flags))
    succeeded(native("train", out=tmp_path / "torn", **{**flags, "steps": 3}))
    succeeded(native("train", out=tmp_path / "torn", resume=1, threads=3, **flags))
    assert left(tmp_path / "torn") == left(tmp_path / "calm")
    other = {**flags, "seed": 1, "shuffle": 0}
    succeeded(native("train", out=tmp_path / "a", **{**other, "seed": 1}))
    succeeded(native("train", out=tmp_path / "b", **{**other, "seed": 2}))
    assert left(tmp_path / "a") != left(tmp_path / "b")  # the rounding is seeded


def test_the_state_s_size_and_what_it_says(native: Native, tmp_path: Path) -> None:
    flags = {**settings(tmp_path, 1), "sample_every": 0, "warmup": 0}
    shapes = tensor_shapes(RAGGED)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    blocks = sum(
        layers * -(-int(np.prod(shape)) // layers // 256)
        for name, shape in shapes.items()
        for layers in [1 if name in OF_MODEL else RAGGED.layers]
    )
    for kind, size, most in (
        ("fp32", 8 * count, count),
        ("bf16", 4 * count, count),
        ("8bit", 2 * 260 * blocks, 256 * blocks),
    ):
        out = tmp_path / kind
        done = succeeded(native("train", out=out, optimizer_state=kind, events="json", **flags))
        start = json.loads(done.stdout.splitlines()[0])
        assert start["optimizer_state"] == kind
        assert 0 <= start["memory_parts"]["optimizer"] - size < 2 * 64
        path = out / "checkpoints" / "00000001" / "state.bin"
        assert path.stat().st_size == MOMENTS_AT + size == training_state_bytes(RAGGED, kind)
        state = read_training_state(path)
        assert (state.optimizer_state, state.parameters) == (kind, most)


@pytest.mark.parametrize("kind", NARROW)
def test_a_state_is_converted_to_fp32(native: Native, tmp_path: Path, kind: str) -> None:
    """Widened, it has the same numbers."""
    flags = {**settings(tmp_path, 4), "sample_every": 0, "val_every": 0, "schedule": "constant"}
    flags |= {"patience": 0, "model": save_model(tmp_path / "m.bin", RAGGED), "keep": 9}
    folder = tmp_path / "checkpoints"
    succeeded(native("train", out=tmp_path, optimizer_state=kind, **{**flags, "steps": 2}))
    narrow = means(folder / "00000002" / "state.bin", RAGGED)
    # One step is made before it is saved again: with these decays it changes nothing.
    near_1 = {"beta1": 1 - 2.0**-53, "beta2": 1 - 2.0**-53, "lr": 0, "steps": 3}
    succeeded(native("train", out=tmp_path, resume=1, **{**flags, **near_1}))
    wide = read_training_state(folder / "00000003" / "state.bin")
    assert wide.optimizer_state == "fp32"
    raw = np.frombuffer(
        (folder / "00000003" / "state.bin").read_bytes()[MOMENTS_AT:], np.float32
    ).astype(np.float64)
    expected = np.concatenate(
        [np.ravel(pair[which].values) for which in (0, 1) for pair in narrow.values()]
    )
    assert raw.size == expected.size
    assert np.allclose(raw, expected, rtol=1e-6, atol=1e-12)


def test_a_damaged_state_is_not_resumed_from(native: Native, tmp_path: Path) -> None:
    flags = {**settings(tmp_path, 2), "sample_every": 0, "warmup": 0}
    succeeded(native("train", out=tmp_path / "out", optimizer_state="8bit", **flags))
    path = tmp_path / "out" / "checkpoints" / "00000002" / "state.bin"
    raw = bytearray(path.read_bytes())
    raw[4 * 28] = 3
    path.write_bytes(with_header_crc(raw))
    error = refused(
        native("train", out=tmp_path / "out", resume=1, optimizer_state="8bit", **flags), 1
    )
    assert "moments of a type that this llmc does not know (3)" in error
    raw[4 * 28] = 1
    path.write_bytes(with_header_crc(raw))
    error = refused(
        native("train", out=tmp_path / "out", resume=1, optimizer_state="bf16", **flags), 1
    )
    assert "it should have" in error
    raw[4 * 28] = 2
    raw[-1] ^= 1
    path.write_bytes(with_header_crc(raw))
    for kind in ("8bit", "fp32"):
        done = native("train", out=tmp_path / "out", resume=1, optimizer_state=kind, **flags)
        assert "its checksum is" in refused(done, 1)


def test_gradients_that_are_zero_leave_means_that_are(native: Native, tmp_path: Path) -> None:
    """The rows of wte that pad it, and tokens that never came: no update is divided by nothing."""
    flags = {**settings(tmp_path, 4), "optimizer_state": "8bit", "weight_decay": 0}
    succeeded(native("train", out=tmp_path / "out", **flags))
    _, saved = read_checkpoint(tmp_path / "out" / "model.bin")
    assert not saved["wte"][RAGGED.vocab_size :].any()
    assert all(np.isfinite(values).all() for values in saved.values())
    m, _ = means(tmp_path / "out" / "checkpoints" / "00000004" / "state.bin", RAGGED)["wte"]
    assert not m.values[RAGGED.vocab_size :].any()
