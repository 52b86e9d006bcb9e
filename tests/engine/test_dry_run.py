"""The engine's dry run: the plan of its memory, exact, and advice for a run that does not fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmc.config import TrainConfig
from llmc.model import ModelConfig
from llmc.preset import load_preset
from llmc.train.dry_run import planned_work
from tests.conftest import Llmc
from tests.helpers.dry_run import PARTS, rehearsed
from tests.helpers.engine import Flags, Native, environment, plan_alone, refused, succeeded
from tests.helpers.events import json_lines
from tests.helpers.models import (
    RAGGED,
    hollow_model,
    random_tokens,
    save_model,
    save_tokens,
    some_tensors,
    training_files,
)
from tests.helpers.workspace import copy_of

HUGE_PAGE = 2 << 20


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    """A model whose sizes are multiples of nothing, and tokens to train and validate on."""
    files = training_files(tmp_path_factory.mktemp("ragged"), RAGGED)
    return {**files, "batch_size": 3, "seq_len": 37}


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


# ---- the plan ------------------------------------------------------------------------------------


def size(*counts: int, width: int = 4) -> int:
    """Return the bytes of blocks of so many numbers, each block in whole cache lines."""
    return sum(-(-count * width // 64) * 64 for count in counts)


@pytest.mark.parametrize(("validated", "clipped"), [(True, False), (False, True)])
def test_the_parts_are_what_the_formulas_say(
    validated: bool, clipped: bool, native: Native, ragged: Flags
) -> None:
    """On the plain loops, which need no scratch memory."""
    flags = {**ragged, "threads": 2, "sample_tokens": 9, "steps": 0, "events": "json"}
    flags |= {"isa": "reference", "val_every": int(validated), "grad_clip": int(clipped)}
    start = json_lines(succeeded(native("train", **flags)).stdout)[0]
    B, T, L, NH, C = 3, 37, RAGGED.layers, RAGGED.heads, RAGGED.channels
    Vp, maxT = RAGGED.padded_vocab_size, RAGGED.context
    BT = B * T
    block, rest = 12 * C * C + 13 * C, (Vp + maxT) * C + 2 * C
    count = rest + L * block

    def kept(BT: int, K: int) -> list[int]:
        of_layers = [*[K * BT * C] * 4, K * BT * 3 * C, *[K * BT * 4 * C] * 2, *[K * BT] * 4]
        head = [BT * C, BT, BT, min(BT, 256) * Vp, BT, BT]
        return [BT * C, L * BT * C, K * BT * NH, *of_layers, *head]

    # A validation takes windows of the context, about 1,024 tokens at a time, over the same memory:
    # here all windows of 399 targets.
    looked = -(-399 // maxT) * maxT if validated else 0
    backward = [BT * C, BT * C, BT * 3 * C, BT * 4 * C]
    # The cache of nine positions, whose rows are filled up to 16 numbers; then a row of each kind.
    cached = L * NH * 9 * -(-C // NH // 16) * 16
    decoder = [cached, cached, 1, 1, *[C] * 3, 3 * C, 4 * C, Vp]
    expected = {
        "parameters": size(count),
        "gradients": size(count if clipped else rest + block),
        "optimizer": size(count, count),
        "activations": max(size(*kept(BT, L), *backward), size(*kept(looked, 1))),
        "scratch": 0,
    }
    parts = dict(start["memory_parts"])
    buffers, rounding = parts.pop("buffers"), parts.pop("rounding")
    assert parts == expected
    # Beside arrays the writer of samples has a few structures, whose size is the compiler's matter.
    rows = [BT + 1, maxT + 1] if validated else [BT + 1]
    batch = max(BT, looked)
    arrays = size(*rows, width=2) + size(*decoder, batch, batch, 9)
    assert arrays <= buffers < arrays + 16384
    assert rounding == -(sum(expected.values()) + buffers) % HUGE_PAGE
    assert start["memory"] == sum(expected.values()) + buffers + rounding


@pytest.mark.parametrize("threads", [1, 3])
def test_the_parts_add_up_to_the_byte(threads: int, native: Native, ragged: Flags) -> None:
    start, _ = rehearsed(native, threads=threads, **ragged)
    assert list(start["memory_parts"]) == PARTS
    assert sum(start["memory_parts"].values()) == start["memory"]
    assert start["memory"] % HUGE_PAGE == 0
    assert 0 <= start["memory_parts"]["rounding"] < HUGE_PAGE


def test_a_dry_run_plans_the_memory_of_the_run(native: Native, ragged: Flags) -> None:
    start, _ = rehearsed(native, steps=3, **ragged)
    flags = {**ragged, "steps": 3, "events": "json"}
    real = json_lines(succeeded(native("train", **flags)).stdout)[0]
    for event in (start, real):
        del event["memory_available"], event["peak_flops"]  # they change by themselves
    assert start == real


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")
def test_what_is_available_is_part_of_the_machine(native: Native, ragged: Flags) -> None:
    found = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    start, _ = rehearsed(native, **ragged)
    assert start["memory"] < start["memory_available"] < 1024 * int(found[1])


# Models whose weights, or whose activations, are most of the memory; a hundred megabytes and more,
# of which the program itself, three at most, is little.
WIDE = ModelConfig(layers=1, heads=1, channels=128, context=64, vocab_size=120_000)
DEEP = ModelConfig(layers=8, heads=2, channels=64, context=256, vocab_size=256)
MODES: dict[str, tuple[ModelConfig, Flags]] = {
    "weights": (WIDE, {}),
    "clipped": (WIDE, {"grad_clip": 1, "optimizer_state": "bf16"}),
    "8bit": (WIDE, {"optimizer_state": "8bit"}),
    "parts": (WIDE, {"total_batch_size": 64, "optimizer_state": "8bit"}),
    "activations": (DEEP, {"batch_size": 16, "seq_len": 256}),
    "recompute": (DEEP, {"batch_size": 64, "seq_len": 256, "recompute": 1}),
    "bf16": (DEEP, {"batch_size": 32, "seq_len": 256, "dtype": "bf16"}),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", MODES)
def test_the_plan_is_the_resident_set(mode: str, native: Native, tmp_path: Path) -> None:
    """To two parts in a hundred, at its peak, after steps, validations and samples.

    Beside the plan there are the program itself and the stacks of its threads.
    """
    program = 3e6
    config, more = MODES[mode]
    V = config.vocab_size
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", config),
        "data": save_tokens(tmp_path / "train.bin", random_tokens(40_000, V), V),
        "val_data": save_tokens(tmp_path / "val.bin", random_tokens(20_000, V, 4), V),
        **{"batch_size": 1, "seq_len": 32, "threads": 2, "events": "json", **more},
    }
    flags |= {"steps": 1000, "val_every": 1, "val_batches": 1, "sample_every": 1}
    peak = 0
    with subprocess.Popen(
        native.argv("train", **flags), stdout=subprocess.PIPE, text=True, env=environment()
    ) as child:
        assert child.stdout is not None
        start = json.loads(child.stdout.readline())
        for line in child.stdout:
            if json.loads(line).get("event") == "sample":
                status = Path(f"/proc/{child.pid}/status").read_text()
                found = re.search(r"VmHWM:\s+(\d+) kB", status)
                assert found is not None
                peak = 1024 * int(found[1])
                break
        child.kill()
    assert start["memory"] > 100e6
    assert peak == pytest.approx(program + start["memory"], rel=0.02)


@pytest.mark.parametrize(
    ("preset", "flags", "gigabytes"),
    [
        ("gpt2-124m", {"optimizer_state": "8bit"}, 1.4),
        ("gpt2-124m", {"optimizer_state": "bf16", "recompute": 1}, 1.4),
        ("gpt2-124m", {"optimizer_state": "bf16", "recompute": 1, "dtype": "bf16"}, 1.4),
        ("gpt2-355m", {}, 6),
        ("gpt2-355m", {"grad_clip": 1, "optimizer_state": "bf16"}, 6),
    ],
)
def test_what_fits_into_a_small_machine(
    preset: str, flags: Flags, gigabytes: float, native: Native, tmp_path: Path
) -> None:
    """At llm.c's B=4 and T=64, with validations and samples."""
    data = save_tokens(tmp_path / "data.bin", np.zeros(1000, np.int64), 300)
    model = hollow_model(tmp_path / "model.bin", load_preset(preset).model)
    files: Flags = {"model": model, "data": data, "val_data": data, "threads": 2}
    plan = plan_alone(native, batch_size=4, seq_len=64, **files, **flags)
    assert 4 * plan["parameters"] < plan["memory"] < gigabytes * 1e9


# ---- what is measured ----------------------------------------------------------------------------


def test_steps_are_measured(native: Native, ragged: Flags) -> None:
    _, measured = rehearsed(native, val_batches=2, sample_tokens=7, **ragged)
    assert measured["steps"] == 5
    assert (measured["val_batches"], measured["sample_tokens"]) == (2, 7)
    assert min(measured[f"{name}_ms"] for name in ("step", "val_batch", "token")) > 0


def test_no_more_is_measured_than_the_run_does(native: Native, ragged: Flags) -> None:
    _, measured = rehearsed(native, val_every=0, sample_every=0, **ragged)
    for name in ("val_batches", "val_batch_ms", "sample_tokens", "token_ms"):
        assert measured[name] == 0
    _, measured = rehearsed(native, val_batches=1000, sample_tokens=1000, **ragged)
    assert measured["val_batches"] == 399 // (3 * 37)  # all there are
    assert measured["sample_tokens"] == RAGGED.context


def test_a_person_reads_it_too(native: Native, ragged: Flags) -> None:
    env = {"LLMC_MEMORY": "34560000"}
    said = succeeded(native("train", dry_run=1, env=env, **ragged)).stdout
    assert "\navailable: 34.6 MB\n" in said
    assert re.search(
        r"\na step takes \d+\.\d{3} ms \(median of 5\)\n"
        r"a validation batch takes \d+\.\d{3} ms\n"
        r"a sampled token takes \d+\.\d{3} ms\n"
        r"nothing was written\n$",
        said,
    ), said


def test_the_rehearsal_is_of_the_real_thing(native: Native, ragged: Flags, tmp_path: Path) -> None:
    """What would stop the run stops its rehearsal."""
    tensors = some_tensors(RAGGED)
    tensors["lnfw"][0] = np.nan
    flags = {**ragged, "model": save_model(tmp_path / "nan.bin", RAGGED, tensors)}
    assert "before the first update" in refused(native("train", dry_run=1, **flags), 5)


def test_the_engine_writes_nothing(native: Native, ragged: Flags, tmp_path: Path) -> None:
    rehearsed(native, out=tmp_path / "new", save_every=1, **ragged)
    assert list(tmp_path.iterdir()) == []
    log = tmp_path / "metrics.jsonl"
    log.write_text("an older run's\n")
    rehearsed(native, out=tmp_path, save_every=1, **ragged)
    assert list(tmp_path.iterdir()) == [log]
    assert log.read_text() == "an older run's\n"


@pytest.mark.parametrize("steps", [0, 1, 5, 6])
@pytest.mark.parametrize(("val_every", "sample_every"), [(1, 1), (3, 2), (7, 5), (0, 0)])
def test_the_estimate_counts_what_the_run_does(
    steps: int, val_every: int, sample_every: int, native: Native, ragged: Flags
) -> None:
    flags: Flags = {"steps": steps, "val_every": val_every, "sample_every": sample_every}
    done = native("train", val_batches=2, sample_tokens=3, events="json", **flags, **ragged)
    events = json_lines(succeeded(done).stdout)
    validations = sum("val_loss" in event for event in events)
    tokens = sum(len(event["tokens"]) for event in events if event.get("event") == "sample")
    _, measured = rehearsed(native, val_batches=2, sample_tokens=3, **flags, **ragged)
    works = planned_work(TrainConfig(**flags), steps, measured)
    assert [work.count for work in works] == [steps, 2 * validations, tokens]
