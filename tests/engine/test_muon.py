"""Muon: PyTorch's updates, the same bits anywhere, half the moments, its own training state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmc.check.debug_state import read_debug_state
from llmc.model import HIDDEN_MATRICES, ModelConfig, tensor_shapes
from llmc.weights.checkpoint import read_checkpoint
from llmc.weights.state import (
    MOMENTS,
    MOMENTS_AT,
    read_training_state,
    scan_training_state,
    training_state_bytes,
)
from tests.helpers.engine import BATCH, Flags, Native, refused, succeeded
from tests.helpers.events import json_lines, without_times
from tests.helpers.isas import isas_but_the_slow
from tests.helpers.models import RAGGED, Floats, save_model, save_tokens, with_header_crc
from tests.programs.torture import settings

KINDS = ["fp32", "bf16", "8bit"]
OF_MODEL = ("wte", "wpe", "lnfw", "lnfb")
STEPS = 5
UPDATE = 2e-5  # relative, of an orthogonalised update in float32 to one in float64
BFLOAT16 = 0.15  # relative, of torch.optim.Muon, which orthogonalises in bfloat16
SHAPES = tensor_shapes(RAGGED)


def moments(path: Path, config: ModelConfig) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return m and v of a state.bin of Muon in fp32; the hidden matrices have no v."""
    numbers = np.frombuffer(path.read_bytes(), np.float32, offset=MOMENTS_AT)
    found: list[dict[str, Floats]] = []
    for leaves_out in ((), HIDDEN_MATRICES):
        found.append({})
        for name, shape in tensor_shapes(config).items():
            if name not in leaves_out:
                values, numbers = np.split(numbers, [int(np.prod(shape))])
                found[-1][name] = values.reshape(shape)
    assert numbers.size == 0
    return found[0], found[1]


def split(name: str, values: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Return the matrices of all layers, qkvw as queries, keys and values."""
    return [part for x in values for part in (np.split(x, 3) if name == "qkvw" else [x])]


def test_every_update_is_pytorchs(native: Native, tmp_path: Path) -> None:
    """From each checkpoint the next: its moments, its gradient, Muon's and AdamW's formulas.

    The hidden matrices are held to the formulas in float64, and loosely to torch.optim.Muon.
    """
    torch = pytest.importorskip("torch")
    from llmc.check import torch_muon as muon
    from tests.programs import parity

    given = parity.ragged()
    train, out, config = given.train, tmp_path / "out", given.config
    lr, decay = 0.02, 0.1
    batch: Flags = {"batch_size": train.batch_size, "seq_len": train.seq_len}
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", config, given.tensors),
        "data": save_tokens(tmp_path / "tokens.bin", given.tokens, config.vocab_size),
        **batch,
    }
    flags |= {"lr": lr, "weight_decay": decay, "optimizer": "muon", "steps": STEPS}
    flags |= {"save_every": 1, "keep": STEPS, "shuffle": 0, "sample_every": 0}
    succeeded(native("train", out=out, threads=2, **flags))
    now = {name: np.array(values) for name, values in given.tensors.items()}
    first = {name: np.zeros_like(x) for name, x in now.items()}
    second = {name: x for name, x in first.items() if name not in HIDDEN_MATRICES}
    for step in range(STEPS):
        rest = given.tokens[step * train.batch_size * train.seq_len :]
        model = out / "checkpoints" / f"{step:08}" / "model.bin" if step else flags["model"]
        data = save_tokens(tmp_path / "batch.bin", rest, config.vocab_size)
        state = tmp_path / "state.bin"
        succeeded(native("debug-state", model=model, data=data, out=state, **batch))
        gradients = read_debug_state(state, config).gradients
        folder = out / "checkpoints" / f"{step + 1:08}"
        saved = {name: np.array(x) for name, x in read_checkpoint(folder / "model.bin")[1].items()}
        m, v = moments(folder / "state.bin", config)
        for name in SHAPES:
            old, new, gradient = (torch.tensor(x[name]) for x in (now, saved, gradients))
            if name not in HIDDEN_MATRICES:
                parameter = torch.nn.Parameter(old)
                parameter.grad = gradient
                group = {"params": [parameter], "weight_decay": decay if old.dim() == 2 else 0}
                group["weight_decay"] = decay if name in ("wte", "wpe") else 0
                adamw = torch.optim.AdamW([group], lr=lr, betas=(train.beta1, train.beta2))
                adamw.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": torch.tensor(first[name]),
                    "exp_avg_sq": torch.tensor(second[name]),
                }
                adamw.step()
                assert parity.distance(saved[name], parameter.detach().numpy()) < 1e-6, name
                kept = adamw.state[parameter]
                assert parity.distance(m[name], kept["exp_avg"].numpy()) < 1e-5, name
                assert parity.distance(v[name], kept["exp_avg_sq"].numpy()) < 1e-5, name
                continue
            momentum = torch.tensor(first[name]).lerp(gradient, 0.05)
            assert parity.distance(m[name], momentum.numpy()) < 1e-6, name
            wanted = gradient.double().lerp(momentum.double(), muon.MOMENTUM)
            parts = [split(name, x.numpy()) for x in (old, new, wanted, gradient)]
            froms = split(name, first[name])
            for before, after, update, grad, start in zip(*parts, froms, strict=True):
                size = lr * muon.scale(torch.tensor(update))
                made = (before.astype(np.float64) * (1 - lr * decay) - after) / size
                exact = muon.orthogonal(torch.tensor(update))
                assert parity.distance(made, exact.numpy()) < UPDATE, (step, name)
                own = torch.nn.Parameter(torch.tensor(before))
                own.grad = torch.tensor(grad)
                theirs = torch.optim.Muon(
                    [own], lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
                )
                theirs.state[own]["momentum_buffer"] = torch.tensor(start)
                theirs.step()
                torchs = (
                    before.astype(np.float64) * (1 - lr * decay) - own.detach().numpy()
                ) / size
                assert parity.distance(made, torchs) < BFLOAT16, (step, name)
                # Newton-Schulz brings singular values that are not tiny near to 1.
                values = np.linalg.svd(made, compute_uv=False)
                there = np.linalg.svd(update, compute_uv=False) / np.linalg.norm(update)
                assert values.max() < 1.21
                assert (values > 0.68).sum() >= (there > 0.003).sum() > 20
        now, first, second = saved, m, v


def trained(native: Native, out: Path, **flags: Any) -> Path:
    """Train with Muon; return the folder of the newest checkpoint."""
    succeeded(native("train", out=out, **{"optimizer": "muon", **flags}))
    return max((out / "checkpoints").iterdir())


def left(folder: Path) -> tuple[bytes, bytes]:
    """Return a checkpoint: weights and moments, without the header that depends on times."""
    return (folder / "model.bin").read_bytes(), (folder / "state.bin").read_bytes()[MOMENTS_AT:]


@pytest.mark.parametrize("isa", isas_but_the_slow(), indirect=True)
def test_the_same_bits_for_any_number_of_threads(isa: str, native: Native, tmp_path: Path) -> None:
    flags = {**settings(tmp_path, 3), "sample_every": 0}
    for more in ({}, {"optimizer_state": "8bit"}, {"dtype": "bf16", "grad_clip": 0.5}):
        outs = [tmp_path / f"{threads}{len(more)}{more.get('dtype')}" for threads in (1, 2, 3, 7)]
        found = [
            left(trained(native, out, isa=isa, threads=threads, **flags, **more))
            for threads, out in zip((1, 2, 3, 7), outs, strict=True)
        ]
        assert all(each == found[0] for each in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    kind: str, native: Native, tmp_path: Path
) -> None:
    flags = {**settings(tmp_path, 8), "optimizer_state": kind, "schedule": "constant"}
    calm = left(trained(native, tmp_path / "calm", **flags))
    trained(native, tmp_path / "torn", **{**flags, "steps": 3})
    torn = left(trained(native, tmp_path / "torn", resume=1, threads=3, recompute=1, **flags))
    assert torn == calm


def test_when_gradients_are_used_up_changes_no_bit(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    """Block by block or all at once; the norm that is told is the gradient's."""
    found, metrics = [], []
    for clip in (0, 1e9):
        out = tmp_path / str(clip)
        flags: Flags = {**files, **BATCH, "steps": 5, "lr": 1e-3, "weight_decay": 0.1}
        found.append(left(trained(native, out, grad_clip=clip, threads=2, **flags)))
        metrics.append(without_times((out / "metrics.jsonl").read_text()))
    assert found[0] == found[1] and metrics[0] == metrics[1]
    succeeded(native("train", out=tmp_path / "adamw", steps=1, **files, **BATCH))
    adamw = json_lines((tmp_path / "adamw" / "metrics.jsonl").read_text())
    norms = [
        next(line["grad_norm"] for line in lines if "grad_norm" in line)
        for lines in (adamw, metrics[0])
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_a_batch_in_parts_is_the_batch(native: Native, files: Flags, tmp_path: Path) -> None:
    """An update of three rows, whether they come one by one or together."""
    found = []
    for rows in (1, 3):
        flags: Flags = {**files, "batch_size": rows, "seq_len": 37, "total_batch_size": 111}
        folder = trained(native, tmp_path / str(rows), steps=3, lr=1e-3, **flags)
        found.append(read_checkpoint(folder / "model.bin")[1])
    for name in SHAPES:
        distance = np.linalg.norm(np.ravel(found[0][name] - found[1][name]).astype(np.float64))
        assert distance < 1e-3 * np.linalg.norm(np.ravel(found[1][name]).astype(np.float64)), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_s_size_and_what_it_says(kind: str, native: Native, tmp_path: Path) -> None:
    flags = {**settings(tmp_path, 1), "sample_every": 0, "warmup": 0, "optimizer_state": kind}
    values, block = next(sizes for name, *sizes in MOMENTS if name == kind)
    size = 0
    for name, shape in SHAPES.items():
        layers = 1 if name in OF_MODEL else RAGGED.layers
        count = layers * -(-int(np.prod(shape)) // layers // values)
        size += (1 if name in HIDDEN_MATRICES else 2) * count * block
    done = native("train", out=tmp_path / "out", optimizer="muon", events="json", **flags)
    start = json.loads(succeeded(done).stdout.splitlines()[0])
    assert (start["optimizer"], start["optimizer_state"]) == ("muon", kind)
    assert 0 <= start["memory_parts"]["optimizer"] - size < 2 * 64
    path = tmp_path / "out" / "checkpoints" / "00000001" / "state.bin"
    assert path.stat().st_size == MOMENTS_AT + size == training_state_bytes(RAGGED, kind, "muon")
    state = read_training_state(path)
    assert (state.optimizer, state.optimizer_state, state.parameters) == ("muon", kind, None)
    C, plain = RAGGED.channels, native("train", events="json", **{**flags, "steps": 0})
    scratch = json.loads(succeeded(plain).stdout.splitlines()[0])["memory_parts"]["scratch"]
    room = start["memory_parts"]["scratch"] - scratch  # of each thread, with packed factors
    assert start["threads"] * 4 * 8 * C * C < room < start["threads"] * 2**20


def test_a_state_is_converted(native: Native, tmp_path: Path) -> None:
    """To bf16 and back: the second time, the numbers are those of the first."""
    flags = {**settings(tmp_path, 2), "sample_every": 0, "val_every": 0, "patience": 0}
    flags |= {"schedule": "constant", "keep": 9}
    out = tmp_path / "out"
    raw = left(trained(native, out, optimizer_state="bf16", **flags))[1]
    narrow = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    # One step is made before it is saved again: with these decays only Muon's momentum changes.
    near_1 = {"beta1": 1 - 2.0**-53, "beta2": 1 - 2.0**-53, "lr": 0, "steps": 3}
    folder = trained(native, out, resume=1, **{**flags, **near_1})
    m, v = moments(folder / "state.bin", RAGGED)
    at = 0
    for leaves_out, found in (((), m), (HIDDEN_MATRICES, v)):
        for name, shape in SHAPES.items():
            if name in leaves_out:
                continue
            values = narrow[at : at + int(np.prod(shape))].reshape(shape)
            at += values.size
            if name not in HIDDEN_MATRICES:
                assert np.allclose(found[name], values, rtol=1e-6, atol=1e-12), name
    assert at == narrow.size


def test_a_state_is_of_one_optimizer(native: Native, tmp_path: Path) -> None:
    flags = {**settings(tmp_path, 2), "sample_every": 0, "warmup": 0}
    for name, other in (("adamw", "muon"), ("muon", "adamw")):
        out = tmp_path / name
        succeeded(native("train", out=out, optimizer=name, **flags))
        before = left(out / "checkpoints" / "00000002")
        more = {**flags, "steps": 4}
        error = refused(native("train", out=out, resume=1, optimizer=other, **more), 2)
        assert f"--optimizer {name}, not {other}" in error
        assert left(out / "checkpoints" / "00000002") == before


def test_an_old_state_is_adamw_s(native: Native, tmp_path: Path) -> None:
    """Int 32 of the header is zero in what older versions wrote."""
    flags = {**settings(tmp_path, 2), "sample_every": 0, "warmup": 0}
    succeeded(native("train", out=tmp_path / "out", **flags))
    path = tmp_path / "out" / "checkpoints" / "00000002" / "state.bin"
    raw = bytearray(path.read_bytes())
    assert not any(raw[4 * 32 : 1024])
    assert read_training_state(path).optimizer == "adamw"
    for number, sentence in (
        (1, "it should have"),
        (2, "an optimizer that this llmc does not know"),
    ):
        raw[4 * 32] = number
        path.write_bytes(with_header_crc(raw))
        chosen = "muon" if number == 1 else "adamw"
        more = {**flags, "steps": 4, "resume": 1, "optimizer": chosen}
        assert sentence in refused(native("train", out=tmp_path / "out", **more), 1)
    assert scan_training_state(path)[1] == ["it is the state of an unknown optimizer"]


def test_gradients_that_are_zero_move_nothing(native: Native, tmp_path: Path) -> None:
    """The momentum is zero then, and so is its orthogonal matrix."""
    config = ModelConfig(layers=2, heads=2, channels=8, context=8, vocab_size=20)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(config).items()}
    tensors["qkvw"] += 0.5
    tensors["fcprojw"] += np.float32(0.25)
    model = save_model(tmp_path / "model.bin", config, tensors)
    data = save_tokens(tmp_path / "data.bin", np.arange(200) % 20, 20)
    folder = trained(
        native, tmp_path / "out", model=model, data=data, steps=3, lr=0.1, batch_size=2, seq_len=8
    )
    _, saved = read_checkpoint(folder / "model.bin")
    assert all(np.isfinite(values).all() for values in saved.values())
    assert (saved["qkvw"] == 0.5).all()


def five_steps(update: Any, cuts: tuple[int, ...], dtype: type[np.floating[Any]]) -> Any:
    """Return five steps on a matrix (m, n), m the smaller side, cut as in native/model/muon.c.

    So many steps as a cut has follow the Gram matrix alone, and multiply the matrix once.
    """
    x = (update / np.linalg.norm(update)).astype(dtype)
    a, b, c = (dtype(number) for number in (3.4445, -4.7750, 2.0315))
    eye = np.eye(len(x), dtype=dtype)
    for steps in cuts:
        gram, product = x @ x.T, eye
        for _ in range(steps):
            polynomial = a * eye + b * gram + c * (gram @ gram)
            product = product @ polynomial
            gram = polynomial @ (gram @ polynomial)
        x = product @ x
    return x


@pytest.mark.parametrize("decay", [1, 2])
def test_three_and_two_steps_at_once_lose_nothing_that_five_would(decay: int) -> None:
    random = np.random.default_rng(0)
    left, right = (np.linalg.qr(random.normal(size=(n, 96)))[0] for n in (96, 384))
    update = (left * np.arange(1.0, 97) ** -decay) @ right.T
    exact = five_steps(update, (1,) * 5, np.float64)
    one_by_one, cut, at_once = (
        np.linalg.norm(five_steps(update, cuts, np.float32) - exact) / np.linalg.norm(exact)
        for cuts in ((1,) * 5, (3, 2), (5,))
    )
    assert max(one_by_one, cut) < 3e-5 < at_once < 2e-3
