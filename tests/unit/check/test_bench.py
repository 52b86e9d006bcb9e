"""What is counted, the arithmetic on made-up times, and PyTorch's side of a benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from llmc.check.bench import Work, kernels_result, step_result
from llmc.check.timing import Timing, TorchProcess, attention_of, comparison, in_pairs
from llmc.errors import BadData
from llmc.model import ModelConfig, attention_flops, gemm_flops
from llmc.units import milliseconds
from tests.helpers.engine import refused, succeeded
from tests.helpers.events import json_lines

TINY = ModelConfig(layers=2, heads=2, channels=32, context=64, vocab_size=256)
WORK = Work(TINY, B=2, T=16, threads=1, steps=2)
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="compares with PyTorch")


def timing(*seconds: float, **start: Any) -> Timing:
    """Return a process's measurements, made up."""
    told = {
        "event": "start",
        "isa": "x",
        "torch": "2",
        "threads": 1,
        "multiplies_bf16": True,
    } | start
    return Timing(seconds, (told, {"event": "end", "peak_memory_bytes": 1000}))


def with_events(base: Timing, *events: dict[str, Any]) -> Timing:
    return replace(base, events=(base.events[0], *events, base.events[1]))


# ---- what is counted -----------------------------------------------------------------------------


@needs_torch
def test_products_are_counted_as_pytorch_counts_them() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from llmc.check.torch_model import GPT2

    with FlopCounterMode(display=False) as counter:
        ids = torch.zeros((WORK.B, WORK.T), dtype=torch.long)
        loss = GPT2(TINY)(ids, ids)[1]
        loss.backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counted.items() if str(op) in ("aten.mm", "aten.addmm"))
    ours = {k: v for k, v in WORK.step_flops().items() if k.startswith("linear_")}
    assert sum(ours.values()) == products


def test_attention_counts_the_half_below_the_diagonal() -> None:
    whole = gemm_flops(2 * 16, 16, 32)  # every query by every key, over all heads
    assert attention_flops(2, 16, 32) == {
        "attention_forward": 2 * whole / 2,
        "attention_backward": 5 * whole / 2,
    }
    assert WORK.step_flops()["attention_forward"] == TINY.layers * whole


def test_a_step_s_numbers_are_medians_over_all_processes() -> None:
    kernels = (
        {"event": "kernel", "name": "linear_forward", "calls": 6, "seconds": 0.6},
        {"event": "kernel", "name": "zero", "calls": 2, "seconds": 0.8},
    )
    first = with_events(
        timing(1.0, 3.0), *kernels, {"event": "peak", "flops": 1e9, "round_trip": 8e-8}
    )
    second = with_events(
        timing(4.0, 4.0),
        *kernels,
        {"event": "peak", "flops": 3e9, "round_trip": 9e-8},
        {"event": "peak", "flops": 2e9, "round_trip": 4e-7},
    )
    result = step_result(WORK, [first, second])
    flops = WORK.step_flops()
    rate = sum(flops.values()) / 3.0  # the median of 2 and 4 seconds
    assert result["step_ms"] == 3000
    assert result["tokens_per_second"] == 2 * 16 / 3.0
    assert result["flops_per_second"] == rate
    assert (result["peak_flops_per_second"], result["best_peak_flops_per_second"]) == (2e9, 3e9)
    assert result["round_trip_ns"] == pytest.approx(90)
    assert result["share_of_peak"] == rate / 2e9
    assert list(result["kernels"]) == ["zero", "linear_forward"]  # the longest first
    row = result["kernels"]["linear_forward"]
    assert row["calls"] == 3
    assert row["ms"] == pytest.approx(300)
    assert row["share"] == pytest.approx(0.3 / 3.0)  # of the mean step
    assert row["flops_per_second"] == pytest.approx(flops["linear_forward"] / 0.3)
    assert "flops_per_second" not in result["kernels"]["zero"]


def test_a_kernel_s_numbers() -> None:
    shape = {"M": 2, "N": 3, "K": 5, "bytes": 0}
    none = {"M": 0, "N": 0, "K": 0}
    events = [
        {"event": "kernel", "name": "qkv_forward", **shape},
        {"event": "kernel", "name": "attention_forward", **none, "bytes": 0},
        {"event": "kernel", "name": "adamw_update", **none, "bytes": 100},
        *({"event": "peak", "flops": flops, "round_trip": 0} for flops in (50.0, 400.0, 60.0)),
    ]
    for name in ("qkv_forward", "attention_forward", "adamw_update"):
        events += [{"event": "call", "name": name, "seconds": s} for s in (4.0, 1.0, 2.0)]
    result = kernels_result(WORK, with_events(timing(), *events))
    assert (result["peak_flops_per_second"], result["best_peak_flops_per_second"]) == (60, 400)
    assert result["kernels"]["qkv_forward"] == {
        **{"M": 2, "N": 3, "K": 5, "calls": 3, "ms": 2000, "best_ms": 1000},
        **{"flops_per_second": 30, "share_of_peak": 0.5},
    }
    attention = attention_flops(2, 16, 32)["attention_forward"]
    assert result["kernels"]["attention_forward"]["flops_per_second"] == attention / 2
    adamw = result["kernels"]["adamw_update"]
    assert adamw == {"calls": 3, "ms": 2000, "best_ms": 1000, "bytes_per_second": 50}


def test_attention_s_time_is_forward_and_backward() -> None:
    calls = [
        {"event": "call", "name": name, "seconds": seconds}
        for seconds in (1.0, 2.0)
        for name in ("attention_forward", "qkv_forward", "attention_backward")
    ]
    assert attention_of(with_events(timing(), *calls)).seconds == (2.0, 4.0)


def test_the_ratio_is_taken_pair_by_pair() -> None:
    pairs = [
        (timing(1.0), timing(3.0)),
        (timing(2.0), timing(2.0, torch="other")),  # both were slow: the ratio is what counts
        (timing(4.0, 5.0, 6.0), timing(10.0)),
    ]
    assert comparison(pairs) == {
        **{"torch": "2", "threads": 1, "ours_ms": 2000, "theirs_ms": 3000},
        **{"ratio": 2, "ratio_min": 1, "ratio_max": 3, "pairs": 3},
    }


def test_who_begins_changes_from_pair_to_pair() -> None:
    order: list[str] = []

    def side(name: str) -> Timing:
        order.append(name)
        return timing(1.0 if name == "ours" else 2.0)

    pairs = list(in_pairs(lambda: side("ours"), lambda: side("theirs"), 3))
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert all((a.median, b.median) == (1.0, 2.0) for a, b in pairs)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1507.3, "1507 ms"), (36.24, "36.2 ms"), (1.184, "1.18 ms"), (0.0931, "0.093 ms")],
)
def test_milliseconds(count: float, shown: str) -> None:
    assert milliseconds(count) == shown


def test_both_sides_hear_of_the_dtype() -> None:
    argv = WORK.engine_argv(Path("llmc-native"), "bench")
    assert argv[:4] == ["llmc-native", "bench", "--layers", "2"]
    assert "--vocab-size" in argv and argv[-2:] == ["--dtype", "fp32"]
    half = replace(WORK, dtype="bf16")
    assert half.engine_argv(Path("llmc-native"), "bench")[-2:] == ["--dtype", "bf16"]
    assert json.loads(half.torch_request("steps"))["dtype"] == "bf16"


# ---- PyTorch's side ------------------------------------------------------------------------------


def torch_side(*requests: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "llmc.check.torch_bench"]
    lines = "".join(f"{request}\n" for request in requests)
    return subprocess.run(argv, input=lines, capture_output=True, text=True, check=False)


@needs_torch
@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.full)])
def test_pytorch_tells_its_threads_and_each_step(dtype: str) -> None:
    """One process answers both requests: most of its time goes into the import of PyTorch."""
    work = replace(WORK, dtype=dtype)
    done = torch_side(work.torch_request("steps"), work.torch_request("attention"))
    events = json_lines(succeeded(done).stdout)
    expected: list[str] = []
    for steps in (WORK.steps, 2 * TINY.layers):
        expected += ["start", *["step"] * steps, "end"]
    assert [event["event"] for event in events] == expected
    assert all(event["threads"] == 1 for event in events if event["event"] == "start")
    assert all(event["seconds"] > 0 for event in events if event["event"] == "step")


@needs_torch
def test_pytorch_fails_in_one_sentence() -> None:
    request = replace(WORK, T=65).torch_request("steps")
    assert refused(torch_side(request), 1).startswith("error: PyTorch failed (")


@needs_torch
@pytest.mark.full
def test_its_failure_is_passed_on() -> None:
    request = replace(WORK, T=65).torch_request("steps")
    with pytest.raises(BadData, match="PyTorch failed"), TorchProcess() as torch:
        torch.time(request)


@needs_torch
def test_one_process_of_pytorch_is_timed_again_and_stands_still_between() -> None:
    with TorchProcess() as torch:
        for threads in (1, 2):
            timing = torch.time(replace(WORK, threads=threads).torch_request("steps"))
            assert len(timing.seconds) == WORK.steps and timing.start["threads"] == threads
        child = torch._process._child
        assert child is not None
        stat = Path(f"/proc/{child.pid}/stat")
        for _ in range(100 if stat.is_file() else 0):  # the signal takes its time
            if (state := stat.read_text().rpartition(")")[2].split()[0]) == "T":
                break
            time.sleep(0.05)
        else:
            assert not stat.is_file(), state


@needs_torch
def test_pytorch_takes_the_norm_of_all_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch.nn import utils

    from llmc.check.torch_bench import time_steps
    from llmc.check.torch_model import GPT2

    taken: list[tuple[int, float]] = []
    real = utils.get_total_norm

    def noted(tensors: list[torch.Tensor], *, foreach: bool) -> torch.Tensor:
        norm: torch.Tensor = real(tensors, foreach=foreach)
        taken.append((len(tensors), float(norm)))
        return norm

    monkeypatch.setattr(utils, "get_total_norm", noted)
    time_steps(TINY, B=2, T=16, steps=1, dtype="fp32", compiled=False)
    assert [count for count, _ in taken] == [len(list(GPT2(TINY).parameters()))] * 3
    assert all(norm > 0 for _, norm in taken)
