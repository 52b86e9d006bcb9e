"""The loss counts where a mask says: PyTorch's ``ignore_index``, in windows by conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from llmc.check.debug_state import read_debug_state
from llmc.check.tolerances import AFTER_TEN_STEPS, FORWARD_AND_BACKWARD, TIMES_TORCHS_OWN
from llmc.check.torch_model import GPT2
from llmc.config import TrainConfig
from llmc.tokens.files import write_rows, write_tokens
from llmc.tokens.windows import CutWindow, cut_windows
from llmc.weights.checkpoint import read_checkpoint
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.events import json_lines, steps_of, without_times
from tests.helpers.models import RAGGED, random_tokens, save_model, save_tokens, some_tensors
from tests.programs.parity import distance

V, CONTEXT = RAGGED.vocab_size, RAGGED.context
COUNT = 900

Mask = NDArray[np.uint8]


def random_mask(count: int, seed: int, every: int = 30) -> Mask:
    """Return a mask whose conversations and turns begin anywhere."""
    random = np.random.default_rng(seed)
    mask = (random.random(count) < 0.4).astype("u1")
    mask[random.random(count) < 1 / every] |= 2
    mask[random.random(count) < 4 / every] |= 4
    mask[0] = 6
    return mask


def save_masked(path: Path, tokens: NDArray[np.int64], mask: Mask) -> Path:
    write_tokens(path, [(tokens, mask)], V, masked=True)
    return path


def rows_of(native: Native, **flags: Any) -> list[dict[str, Any]]:
    lines = json_lines(succeeded(native("eval", events="json", **flags)).stdout)
    return [line for line in lines if line["event"] == "row"]


def window(row: dict[str, Any]) -> CutWindow:
    counted = sum(loss is not None for loss in row["losses"])
    return CutWindow(row["at"] - 1, len(row["losses"]), counted)


class Batches:
    """What the engine trains on without shuffling: tokens and targets (B,T) of a batch."""

    def __init__(self, tokens: NDArray[np.int64], mask: Mask, B: int, T: int) -> None:
        self.windows = [*cut_windows(mask, T)]
        self.tokens, self.mask, self.B, self.T = tokens, mask, B, T

    def row(self, at: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start, length, _ = self.windows[at % len(self.windows)]
        places = np.arange(start, start + self.T + 1) % len(self.tokens)
        run, counts = self.tokens[places], self.mask[places] & 1 == 1
        targets = np.where(counts[1:], run[1:], -1)
        targets[length:] = -1
        return run[:-1], targets

    def batch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self.row(number * self.B + b) for b in range(self.B)]
        tokens, targets = (np.stack(each) for each in zip(*rows, strict=True))
        return torch.from_numpy(tokens), torch.from_numpy(targets)


def summed(model: GPT2, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return PyTorch's sum of the losses that count."""
    logits, _ = model(batch[0])
    return functional.cross_entropy(
        logits.flatten(0, 1), batch[1].flatten(), ignore_index=-1, reduction="sum"
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.bin", RAGGED)


@pytest.mark.parametrize("shards", [1, 3])
def test_the_windows_are_those_of_the_rule(
    shards: int, native: Native, model: Path, tmp_path: Path
) -> None:
    for seed, every in enumerate((10, 50, 200)):
        tokens, mask = random_tokens(COUNT, V), random_mask(COUNT, seed, every)
        pieces = np.array_split(np.arange(COUNT), shards)
        for i, piece in enumerate(pieces):
            save_masked(tmp_path / f"t_{i}.bin", tokens[piece], mask[piece])
        for T in (1, 7, CONTEXT):
            rows = rows_of(native, model=model, data=tmp_path / "t_*.bin", seq_len=T)
            assert [window(row) for row in rows] == [*cut_windows(mask, T)]
            nulls = [row["at"] + i for row in rows for i, x in enumerate(row["losses"]) if x]
            assert nulls == [i for i in range(1, COUNT) if mask[i] & 1]


def test_losses_are_pytorchs_and_some_windows_are_spread_over_all(
    native: Native, model: Path, tmp_path: Path
) -> None:
    tokens, mask = random_tokens(COUNT, V), random_mask(COUNT, 1)
    data = save_masked(tmp_path / "t.bin", tokens, mask)
    twin = GPT2(RAGGED).double().load(some_tensors(RAGGED))
    rows = rows_of(native, model=model, data=data, batch_size=3)
    for row in rows:
        start, length, _ = window(row)
        ids = torch.from_numpy(tokens[start : start + length + 1])
        logits, _ = twin(ids[None, :-1])
        theirs = functional.cross_entropy(logits[0], ids[1:], reduction="none").detach().numpy()
        for ours, exact, byte in zip(row["losses"], theirs, mask[start + 1 :], strict=False):
            assert (ours is None) == (byte & 1 == 0)
            assert ours is None or abs(ours - exact) < 2e-5
    for most in (1, 3 * CONTEXT, 3 * CONTEXT + 1):
        some = rows_of(native, model=model, data=data, max_tokens=most)
        assert len(some) == -(-most // CONTEXT)
        places = [[row["at"] for row in rows].index(each["at"]) for each in some]
        gaps = np.diff([-1, *places, len(rows)])
        assert gaps.max() - gaps[1:-1].min(initial=gaps.max()) <= gaps.max() / 2 + 1
        by_start = {row["at"]: row["losses"] for row in rows}
        assert all(each["losses"] == by_start[each["at"]] for each in some)
    text = succeeded(native("eval", model=model, data=data)).stdout.splitlines()[-1]
    each = [loss for row in rows for loss in row["losses"] if loss is not None]
    assert text == f"loss {np.mean(each):.6f} over {len(each)} tokens"


def test_rows_win_over_the_mask(native: Native, model: Path, tmp_path: Path) -> None:
    tokens = random_tokens(COUNT, V)
    masked = save_masked(tmp_path / "m.bin", tokens, random_mask(COUNT, 1))
    plain = save_tokens(tmp_path / "p.bin", tokens, V)
    write_rows(tmp_path / "rows.bin", [(3, 20, 5), (100, 9, 1)])
    found = [
        rows_of(native, model=model, data=d, rows=tmp_path / "rows.bin") for d in (masked, plain)
    ]
    assert found[0] == found[1]


def test_a_batch_is_pytorchs(isa: str, native: Native, model: Path, tmp_path: Path) -> None:
    B, T = 3, 37
    tokens, mask = random_tokens(COUNT, V), random_mask(COUNT, 2)
    data, out = save_masked(tmp_path / "t.bin", tokens, mask), tmp_path / "state.bin"
    flags: Flags = {"model": model, "data": data, "out": out, "batch_size": B, "seq_len": T}
    succeeded(native("debug-state", isa=isa, threads=2, **flags))
    ours = read_debug_state(out, RAGGED)
    batch = Batches(tokens, mask, B, T).batch(0)
    assert np.array_equal(ours.tokens, batch[0]) and np.array_equal(ours.targets, batch[1])
    twin = GPT2(RAGGED).double().load(some_tensors(RAGGED))
    loss = summed(twin, batch) / (batch[1] >= 0).sum()
    torch.autograd.backward(loss)
    assert abs(ours.loss - loss.item()) < FORWARD_AND_BACKWARD * loss.item()
    for name, gradient in twin.gradients().items():
        assert distance(ours.gradients[name], gradient) < 10 * FORWARD_AND_BACKWARD, name


def torchs_updates(
    batches: Batches, parts: int, train: TrainConfig, dtype: torch.dtype
) -> tuple[list[tuple[float, int]], dict[str, NDArray[np.floating]]]:
    """Return the loss of each update and how many targets count in it, and the parameters after."""
    twin = GPT2(RAGGED).to(dtype).load(some_tensors(RAGGED))
    adamw, steps = twin.adamw(train), []
    for step in range(train.steps):
        several = [batches.batch(step * parts + i) for i in range(parts)]
        counted = sum(int((targets >= 0).sum()) for _, targets in several)
        twin.zero_grad()
        loss = torch.stack([summed(twin, batch) for batch in several]).sum() / counted
        torch.autograd.backward(loss)
        adamw.step()
        steps.append((loss.item(), counted))
    return steps, twin.tensors()


@pytest.mark.parametrize("parts", [1, 3])
def test_updates_of_several_batches_are_pytorchs(
    parts: int, native: Native, model: Path, tmp_path: Path
) -> None:
    """The loss is the mean over all targets that count in the update, however many a batch has."""
    B, T, steps = 2, 37, 6
    tokens, mask = random_tokens(COUNT, V), random_mask(COUNT, 3, every=60)
    data, out = save_masked(tmp_path / "t.bin", tokens, mask), tmp_path / "out"
    train = TrainConfig(batch_size=B, seq_len=T, lr=1e-3, steps=steps)
    flags: Flags = {"model": model, "data": data, "batch_size": B, "seq_len": T, "steps": steps}
    flags |= {"lr": train.lr, "shuffle": 0, "sample_every": 0, "total_batch_size": parts * B * T}
    succeeded(native("train", out=out, threads=2, **flags))
    batches = Batches(tokens, mask, B, T)
    _, single = torchs_updates(batches, parts, train, torch.float32)
    updates, double = torchs_updates(batches, parts, train, torch.float64)
    for line, (loss, counted) in zip(steps_of(out), updates, strict=True):
        assert line["counted"] == counted
        assert abs(line["train_loss"] - loss) < AFTER_TEN_STEPS
    _, parameters = read_checkpoint(out / "model.bin")
    for name, values in parameters.items():
        own = distance(single[name], double[name])
        ours = distance(np.array(values), double[name])
        assert ours < max(AFTER_TEN_STEPS, TIMES_TORCHS_OWN * own), name


def trained(native: Native, out: Path, **flags: Any) -> list[dict[str, Any]]:
    succeeded(native("train", out=out, **flags))
    return without_times((out / "metrics.jsonl").read_text())


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Flags:
    """A run on masked tokens, with masked validation tokens."""
    flags: Flags = {"model": model, "batch_size": 2, "seq_len": 24, "lr": 1e-3, "steps": 12}
    for seed, name in enumerate(("data", "val_data")):
        data = save_masked(
            tmp_path / f"{name}.bin", random_tokens(COUNT, V, seed), random_mask(COUNT, seed)
        )
        flags[name] = data
    return flags | {"val_every": 4, "sample_every": 0, "total_batch_size": 96, "save_every": 4}


def test_where_all_count_the_bits_are_those_without_a_mask(
    native: Native, model: Path, tmp_path: Path
) -> None:
    T, count = 24, 24 * 11 + 1
    tokens = random_tokens(count, V)
    data = [
        save_tokens(tmp_path / "plain.bin", tokens, V),
        save_masked(tmp_path / "masked.bin", tokens, np.ones(count, "u1")),
    ]
    flags: Flags = {"model": model, "batch_size": 2, "seq_len": T, "steps": 9, "sample_every": 0}
    for parts in (1, 3):
        flags["total_batch_size"] = parts * 2 * T
        plain, masked = (
            trained(native, tmp_path / f"{path.stem}{parts}", data=path, **flags) for path in data
        )
        assert [line.pop("counted", None) for line in masked][:-1] == [parts * 2 * T] * 9
        assert masked == plain
        models = [(tmp_path / f"{each.stem}{parts}" / "model.bin").read_bytes() for each in data]
        assert models[0] == models[1]


def test_threads_and_a_resume_change_no_bit(native: Native, run: Flags, tmp_path: Path) -> None:
    whole = trained(native, tmp_path / "whole", **run)
    again = trained(native, tmp_path / "again", **run, threads=3)
    assert again == whole
    trained(native, tmp_path / "cut", **{**run, "steps": 8})
    cut = trained(native, tmp_path / "cut", **run, resume=1)
    assert [line for line in cut if "event" not in line] == [
        line for line in whole if "event" not in line
    ]
    models = [(tmp_path / name / "model.bin").read_bytes() for name in ("whole", "again", "cut")]
    assert models[0] == models[1] == models[2]


def test_a_validation_is_what_eval_measures(native: Native, run: Flags, tmp_path: Path) -> None:
    for most in (0, 200):
        out = tmp_path / f"out{most}"
        lines = trained(native, out, **run, val_tokens=most)
        said = [line["val_loss"] for line in lines if "val_loss" in line][-1]
        flags: Flags = {"data": run["val_data"], "max_tokens": most}
        rows = rows_of(native, model=out / "model.bin", **flags)
        each = [loss for row in rows for loss in row["losses"] if loss is not None]
        assert abs(np.mean(each) - said) < 1e-6


def test_a_mixture_of_texts_with_and_without_a_mask(
    native: Native, run: Flags, tmp_path: Path
) -> None:
    plain = save_tokens(tmp_path / "plain.bin", random_tokens(400, V, 9), V)
    flags: Flags = {**run, "data": [run["data"], plain], "weights": "1,3", "seq_len": 24}
    flags["val_data"] = [run["val_data"], plain]
    lines = trained(native, tmp_path / "out", **flags)
    counted = [line["counted"] for line in lines if "counted" in line]
    assert all(3 * 24 < each < 96 for each in counted)
    last = [line for line in lines if "val_parts" in line][-1]
    assert abs(sum(last["val_parts"]) / 2 - last["val_loss"]) < 1e-6


def test_masks_that_do_not_fit_are_refused(native: Native, run: Flags, tmp_path: Path) -> None:
    data, mask = tmp_path / "data.bin", tmp_path / "data.mask"
    whole = mask.read_bytes()
    for broken, word in (
        (whole[:-1], "bytes"),
        (whole + b"\0", "bytes"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "checksum"),
        (bytes(8) + whole[8:], "begins with"),
    ):
        mask.write_bytes(broken)
        said = refused(native("train", out=tmp_path / "out", **run), 1)
        assert str(data) in said and str(mask) in said and word in said
    mask.unlink()
    said = refused(native("eval", model=run["model"], data=data), 1)
    assert str(data) in said and str(mask) in said
    header = bytearray(data.read_bytes())
    header[12] = 2
    data.write_bytes(header)
    assert "int 3" in refused(native("eval", model=run["model"], data=data), 1)


def test_no_token_counts_or_only_some_shards_have_masks(
    native: Native, model: Path, tmp_path: Path
) -> None:
    tokens = random_tokens(100, V)
    save_masked(tmp_path / "t_1.bin", tokens, np.zeros(100, "u1"))
    flags: Flags = {"model": model, "data": tmp_path / "t_*.bin", "batch_size": 1, "seq_len": 8}
    assert "at none of its tokens" in refused(native("train", steps=1, **flags), 1)
    save_tokens(tmp_path / "t_2.bin", tokens, V)
    said = refused(native("train", steps=1, **flags), 1)
    assert "t_1.bin has a mask" in said and "t_2.bin has none" in said


def test_an_epoch_is_what_python_plans(native: Native, run: Flags) -> None:
    mask = random_mask(COUNT, 0)
    flags: Flags = {**run, "epochs": 3, "dry_run": 1, "events": "json"}
    del flags["steps"], flags["save_every"]
    start = json.loads(succeeded(native("train", **flags)).stdout.splitlines()[0])
    windows = len([*cut_windows(mask, 24)])
    assert start["steps"] == -(-3 * windows // 4)


@pytest.fixture
def aligned(model: Path, tmp_path: Path) -> Flags:
    """A run on documents of about 20 tokens that begin with the vocabulary's last id."""
    tokens = random_tokens(COUNT, V - 1)
    tokens[np.random.default_rng(5).random(COUNT) < 1 / 20] = V - 1
    flags: Flags = {"model": model, "data": save_tokens(tmp_path / "a.bin", tokens, V)}
    flags |= {"batch_size": 2, "seq_len": 24, "steps": 6, "sample_every": 0, "windows": "aligned"}
    return flags | {"tokens": tokens}


def test_aligned_windows_are_those_of_a_mask_whose_conversations_are_documents(
    aligned: Flags, native: Native, tmp_path: Path
) -> None:
    tokens = aligned.pop("tokens")
    assert isinstance(tokens, np.ndarray)
    mask = np.where(tokens == V - 1, 3, 1).astype("u1")
    masked = {**aligned, "data": save_masked(tmp_path / "m.bin", tokens, mask)}
    for parts in (1, 2):
        total = parts * 2 * 24
        lines = [
            trained(native, tmp_path / f"{name}{parts}", **flags, total_batch_size=total)
            for name, flags in (
                ("a", aligned),
                ("m", masked),
                ("p", masked | {"windows": "packed"}),
            )
        ]
        assert lines[0] == lines[1] == lines[2]
        assert any(line["counted"] < total for line in lines[0] if "counted" in line)
    packed = trained(native, tmp_path / "packed", **{**aligned, "windows": "packed"})
    assert packed != lines[0]


def test_a_resume_keeps_the_windows(aligned: Flags, native: Native, tmp_path: Path) -> None:
    del aligned["tokens"]
    whole = trained(native, tmp_path / "whole", **aligned)
    trained(native, tmp_path / "cut", **{**aligned, "steps": 3})
    said = refused(
        native("train", out=tmp_path / "cut", resume=1, **{**aligned, "windows": "packed"}), 2
    )
    assert "--windows aligned, not packed" in said
    cut = trained(native, tmp_path / "cut", resume=1, **aligned)
    assert [x for x in cut if "train_loss" in x] == [x for x in whole if "train_loss" in x]
    models = [(tmp_path / name / "model.bin").read_bytes() for name in ("whole", "cut")]
    assert models[0] == models[1]
